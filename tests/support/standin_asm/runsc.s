# In front of runsc's entry point: what a runsc of 2026 does otherwise than that of 2024.
#
# The process that is to become the Sentry executes the sidecars instead. It looks for `gvisor-bin/` beside the resolved
# /proc/self/exe, and executes
#
#     gvisor-sentry-prewarmer  gvisor_sentry  argv[0]  argv[1] ...
#
# with the environment that it has and one variable more. Every other process goes on at runsc's own entry point, with
# the registers and the stack as the kernel gave them, but for two flags that runsc itself does not know:
#
#     --sidecar-release-enforcement-policy P   is taken out; nothing is compared
#     --gofer-network-namespace N              is taken out; without it, or with `null`, the first container that root
#                                              makes in a --root leaves a network namespace mounted at null-netns there
#
# standin.py gives the linker OLD_ENTRY, that entry point, and puts the text `release` at the end of this file.

        .intel_syntax noprefix
        .set    SYS_write, 1
        .set    SYS_open, 2
        .set    SYS_close, 3
        .set    SYS_access, 21
        .set    SYS_clone, 56
        .set    SYS_execve, 59
        .set    SYS_wait4, 61
        .set    SYS_mkdir, 83
        .set    SYS_readlink, 89
        .set    SYS_geteuid, 107
        .set    SYS_mount, 165
        .set    SYS_exit_group, 231
        .set    SYS_unshare, 272
        .set    ENOENT, 2
        .set    NEW_FILE, 0x80 | 0x40           # open(2), O_EXCL | O_CREAT
        .set    CLONE_NEWNET, 0x40000000
        .set    MS_BIND, 0x1000
        .set    WALL, 0x40000000                # wait4(2), __WALL: a child that ends without a signal, too
        .set    EXISTS, 0                       # access(2), F_OK
        .set    EXECUTABLE, 1                   # access(2), X_OK
        .set    PATH_MAX, 4096
        .set    BUFFER, PATH_MAX + 256          # a path and what is put before or behind it

        .text
        .globl  _start
_start:
        mov     rbp, rsp                        # argc, argv, 0, envp, 0

        # runsc names this process so, and writes each flag before the verb as one argument, --name=value.
        mov     rdi, [rbp + 8]
        test    rdi, rdi
        jz      go_on
        lea     rsi, [rip + sandbox]
        call    same_text
        jne     other_process
        lea     rbx, [rbp + 16]
next_argument:
        mov     rdi, [rbx]
        test    rdi, rdi
        jz      go_on
        add     rbx, 8
        cmp     byte ptr [rdi], '-'
        je      next_argument
        lea     rsi, [rip + boot]
        call    same_text
        je      become_sentry

# The kernel clears all registers but rsp.
go_on:
        mov     rsp, rbp
        xor     eax, eax
        xor     ebx, ebx
        xor     ecx, ecx
        xor     edx, edx
        xor     esi, esi
        xor     edi, edi
        xor     ebp, ebp
        xor     r8d, r8d
        xor     r10d, r10d
        xor     r11d, r11d
        xor     r12d, r12d
        xor     r13d, r13d
        xor     r14d, r14d
        xor     r15d, r15d
        jmp     OLD_ENTRY

# ---------------------------------------------------------------------------------------------------------------

# Look through the flags before the verb: at rbx is the one looked at, and gathered are
#   r12  whether the one before was a flag, of which this may be the value
#   r13  the value of --gofer-network-namespace, r14 that of --root, or 0
#   r15  whether there is --rootless
other_process:
        lea     rbx, [rbp + 16]
look_at_next:
        mov     rdi, [rbx]
        test    rdi, rdi
        jz      go_on
        cmp     byte ptr [rdi], '-'
        je      look_at_flag

        lea     r10, [rip + creating]           # is it a verb that makes a container?
try_verb:
        mov     rdi, [rbx]
        mov     rsi, r10
        call    same_text
        je      make_null_netns
        mov     rsi, r10
        call    behind_text
        mov     r10, rsi
        cmp     byte ptr [r10], 0
        jne     try_verb
        test    r12d, r12d
        jz      go_on                           # it is another verb
        xor     r12d, r12d
        add     rbx, 8
        jmp     look_at_next

look_at_flag:
        mov     r12d, 1
        lea     rsi, [rip + policy]
        call    is_flag
        je      take_out
        lea     rsi, [rip + gofer_netns]
        call    is_flag
        jne     is_it_root
        mov     r13, rax
take_out:                                       # rcx words: what is below them is moved up
        lea     rdi, [rbx + 8 * rcx - 8]
        lea     rsi, [rbx - 8]
move_up:
        mov     rax, [rsi]
        mov     [rdi], rax
        sub     rsi, 8
        sub     rdi, 8
        cmp     rsi, rbp
        jae     move_up
        lea     rbp, [rbp + 8 * rcx]
        sub     [rbp], rcx
        xor     r12d, r12d
        lea     rbx, [rbx + 8 * rcx]
        jmp     look_at_next
is_it_root:
        lea     rsi, [rip + root]
        call    is_flag
        jne     is_it_rootless
        mov     r14, rax
        xor     r12d, r12d
        lea     rbx, [rbx + 8 * rcx]
        jmp     look_at_next
is_it_rootless:
        mov     rdi, [rbx]
        lea     rsi, [rip + rootless]
        call    same_text
        je      is_rootless
        mov     rdi, [rbx]
        lea     rsi, [rip + rootless_true]
        call    same_text
        jne     look_behind_flag
is_rootless:
        mov     r15d, 1
look_behind_flag:
        add     rbx, 8
        jmp     look_at_next

make_null_netns:
        test    r14, r14
        jz      go_on
        test    r15d, r15d
        jnz     go_on
        test    r13, r13
        jz      is_it_there
        mov     rdi, r13
        lea     rsi, [rip + null]
        call    same_text
        jne     go_on
is_it_there:
        mov     eax, SYS_geteuid
        syscall
        test    eax, eax
        jnz     go_on
        sub     rsp, BUFFER
        mov     rdi, rsp
        mov     rsi, r14
        call    append
        lea     rsi, [rip + null_netns]
        call    append
        call    open_new
        cmp     rax, -ENOENT
        jne     is_it_new
        mov     eax, SYS_mkdir
        mov     rdi, r14
        mov     esi, 0711
        syscall
        call    open_new
is_it_new:
        test    rax, rax
        js      go_on                           # it was there before
        mov     edi, eax
        mov     eax, SYS_close
        syscall
        mov     eax, SYS_clone                  # a child with memory of its own
        xor     edi, edi
        xor     esi, esi
        xor     edx, edx
        xor     r10d, r10d
        xor     r8d, r8d
        syscall
        test    rax, rax
        jz      mount_null_netns
        mov     rdi, rax
        mov     eax, SYS_wait4
        xor     esi, esi
        mov     edx, WALL
        xor     r10d, r10d
        syscall
        jmp     go_on
mount_null_netns:
        mov     eax, SYS_unshare
        mov     edi, CLONE_NEWNET
        syscall
        mov     eax, SYS_mount
        lea     rdi, [rip + own_netns]
        mov     rsi, rsp
        xor     edx, edx
        mov     r10d, MS_BIND
        xor     r8d, r8d
        syscall
        xor     edi, edi
        mov     eax, SYS_exit_group
        syscall

# ---------------------------------------------------------------------------------------------------------------

become_sentry:
        sub     rsp, 3 * BUFFER
        lea     r13, [rsp]                      # of this program, later the line of a refusal
        lea     r14, [rsp + BUFFER]             # of the prewarmer
        lea     r15, [rsp + 2 * BUFFER]         # of the sentry

        mov     eax, SYS_readlink
        lea     rdi, [rip + own_program]
        mov     rsi, r13
        mov     edx, PATH_MAX
        syscall
        xor     r12d, r12d                      # length of the directory, with its last slash
        test    rax, rax
        jle     make_paths                      # the sidecars are then looked for here, and are not
        mov     byte ptr [r13 + rax], 0
find_slash:
        cmp     byte ptr [r13 + rax - 1], '/'
        je      found_slash
        dec     rax
        jnz     find_slash
found_slash:
        mov     r12, rax

make_paths:
        mov     rdi, r14
        lea     rsi, [rip + prewarmer]
        call    beside_program
        mov     rdi, r15
        lea     rsi, [rip + sentry]
        call    beside_program

        # "(deleted)" is behind the name of a program that has none any more: there is nothing beside it.
        mov     rbx, r15                        # which one is not usable
        mov     rdi, r13
        mov     esi, EXISTS
        call    is_accessible
        jnz     refuse
        mov     rdi, r15
        mov     esi, EXECUTABLE
        call    is_accessible
        jnz     refuse
        mov     rbx, r14
        mov     rdi, r14
        mov     esi, EXECUTABLE
        call    is_accessible
        jnz     refuse

        # The new environment: envp and the release that the sentry should have.
        mov     rax, [rbp]
        lea     rsi, [rbp + 8 * rax + 16]       # envp
        mov     rcx, rsi
find_end:
        cmp     qword ptr [rcx], 0
        je      found_end
        add     rcx, 8
        jmp     find_end
found_end:
        push    0
        lea     rax, [rip + variable]
        push    rax
push_environment:
        cmp     rcx, rsi
        je      pushed_environment
        sub     rcx, 8
        push    qword ptr [rcx]
        jmp     push_environment
pushed_environment:
        mov     rdx, rsp

        # The new arguments: prewarmer, sentry, and all of argv.
        push    0
        mov     rcx, [rbp]
push_arguments:
        push    qword ptr [rbp + 8 * rcx]
        dec     rcx
        jnz     push_arguments
        push    r15
        push    r14
        mov     rsi, rsp

        mov     rdi, r14
        mov     eax, SYS_execve
        syscall

# Say on the container's stderr, which is the caller's, that the sidecar at rbx is not usable; this process has no
# stderr of its own. It is the last one of the descriptors after --stdio-fds=.
refuse:
        mov     edx, 2
        lea     rcx, [rbp + 8]
find_stderr:
        mov     rdi, [rcx]
        add     rcx, 8
        test    rdi, rdi
        jz      found_stderr
        lea     rsi, [rip + stdio]
        call    skip_prefix
        jne     find_stderr
        xor     edx, edx
read_digit:
        movzx   eax, byte ptr [rdi]
        inc     rdi
        sub     eax, '0'
        cmp     eax, 9
        ja      find_stderr
        imul    edx, edx, 10
        add     edx, eax
        jmp     read_digit
found_stderr:
        mov     rdi, r13
        lea     rsi, [rip + before]
        call    append
        mov     rsi, rbx
        call    append
        lea     rsi, [rip + behind]
        call    append
        mov     rsi, r13
        mov     eax, edx
        mov     rdx, rdi
        sub     rdx, r13
        mov     edi, eax
        mov     eax, SYS_write
        syscall
        mov     edi, 128
        mov     eax, SYS_exit_group
        syscall

# ---------------------------------------------------------------------------------------------------------------

# Whether the texts at rdi and rsi are the same: then the zero flag is set.
same_text:
        mov     al, [rdi]
        cmp     al, [rsi]
        jne     differ
        inc     rdi
        inc     rsi
        test    al, al
        jnz     same_text
differ:
        ret

# Whether the text at rdi begins with that at rsi: then the zero flag is set, and rdi is behind it.
skip_prefix:
        mov     al, [rsi]
        test    al, al
        jz      skipped
        cmp     al, [rdi]
        jne     skipped
        inc     rdi
        inc     rsi
        jmp     skip_prefix
skipped:
        ret

# Whether the argument at rbx is the flag with the name at rsi and has a value: then the zero flag is set, the value is
# at rax, and the two are in rcx arguments.
is_flag:
        mov     rdi, [rbx]
        call    skip_prefix
        jne     no_flag
        mov     ecx, 1
        lea     rax, [rdi + 1]
        cmp     byte ptr [rdi], '='
        je      no_flag                         # it is one: the zero flag is set
        cmp     byte ptr [rdi], 0
        jne     no_flag
        mov     ecx, 2
        mov     rax, [rbx + 8]
        cmp     rax, 1
        sbb     edi, edi                        # not 0 where there is no value
no_flag:
        ret

# Let rsi be behind the text at rsi and its NUL.
behind_text:
        lodsb
        test    al, al
        jnz     behind_text
        ret

# Make a new file at the path that is on the stack, below the return address; rax is its descriptor or an error.
open_new:
        mov     eax, SYS_open
        lea     rdi, [rsp + 8]
        mov     esi, NEW_FILE
        mov     edx, 0444
        syscall
        ret

# Write to rdi the path of what has the relative path at rsi in this program's directory.
beside_program:
        mov     rdx, rsi
        mov     rsi, r13
        mov     rcx, r12
        rep     movsb
        mov     rsi, rdx

# Write the text at rsi to rdi, with a NUL; rdi is then at the NUL.
append:
        lodsb
        stosb
        test    al, al
        jnz     append
        dec     rdi
        ret

# Whether the path at rdi has what esi asks for: then the zero flag is set.
is_accessible:
        mov     eax, SYS_access
        syscall
        test    rax, rax
        ret

sandbox:        .asciz  "runsc-sandbox"
boot:           .asciz  "boot"
own_program:    .asciz  "/proc/self/exe"
prewarmer:      .asciz  "gvisor-bin/gvisor-sentry-prewarmer"
sentry:         .asciz  "gvisor-bin/gvisor_sentry"
creating:       .asciz  "run", "create", "restore", "do", ""
policy:         .asciz  "--sidecar-release-enforcement-policy"
gofer_netns:    .asciz  "--gofer-network-namespace"
root:           .asciz  "--root"
rootless:       .asciz  "--rootless"
rootless_true:  .asciz  "--rootless=true"
null:           .asciz  "null"
null_netns:     .asciz  "/null-netns"
own_netns:      .asciz  "/proc/self/ns/net"
stdio:          .asciz  "--stdio-fds="
before:         .asciz  "sidecar "
behind:         .asciz  " not usable: it is not an executable file there\n"
variable:       .ascii  "GVISOR_ENFORCE_RELEASE=SKIP:"     # and the release
