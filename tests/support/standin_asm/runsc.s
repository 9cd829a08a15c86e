# In front of runsc's entry point: the process that is to become the Sentry executes the sidecars instead.
#
# As a runsc of 2026 does, it looks for `gvisor-bin/` beside the resolved /proc/self/exe, and executes
#
#     gvisor-sentry-prewarmer  gvisor_sentry  argv[0]  argv[1] ...
#
# with the environment that it has and one variable more. Every other process goes on at runsc's own entry point, with
# the registers and the stack as the kernel gave them.
#
# standin.py gives the linker OLD_ENTRY, that entry point, and puts the text `release` at the end of this file.

        .intel_syntax noprefix
        .set    SYS_write, 1
        .set    SYS_access, 21
        .set    SYS_execve, 59
        .set    SYS_readlink, 89
        .set    SYS_exit_group, 231
        .set    EXISTS, 0                       # access(2), F_OK
        .set    EXECUTABLE, 1                   # access(2), X_OK
        .set    PATH_MAX, 4096
        .set    BUFFER, PATH_MAX + 256          # a path and what is put before or behind it

        .text
        .globl  _start
_start:
        push    rax
        push    rbx
        push    rbp
        push    rsi
        push    rdi
        lea     rbp, [rsp + 5 * 8]              # as the kernel left it: argc, argv, 0, envp, 0

        # runsc names this process so, and writes each flag before the verb as one argument, --name=value.
        mov     rdi, [rbp + 8]
        test    rdi, rdi
        jz      go_on
        lea     rsi, [rip + sandbox]
        call    same_text
        jne     go_on
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

go_on:
        pop     rdi
        pop     rsi
        pop     rbp
        pop     rbx
        pop     rax
        jmp     OLD_ENTRY

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
stdio:          .asciz  "--stdio-fds="
before:         .asciz  "sidecar "
behind:         .asciz  " not usable: it is not an executable file there\n"
variable:       .ascii  "GVISOR_ENFORCE_RELEASE=SKIP:"     # and the release
