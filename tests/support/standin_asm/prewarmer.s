# gvisor-sentry-prewarmer BINARY ARGV0 [ARGUMENT ...]: becomes BINARY, with the rest as its argv and the environment.

        .intel_syntax noprefix
        .set    SYS_write, 1
        .set    SYS_execve, 59
        .set    SYS_exit_group, 231

        .text
        .globl  _start
_start:
        mov     rcx, [rsp]                      # argc, with its own name
        cmp     rcx, 3
        jl      misused
        mov     rdi, [rsp + 16]
        lea     rsi, [rsp + 24]
        lea     rdx, [rsp + 8 * rcx + 16]
        mov     eax, SYS_execve
        syscall
        mov     edi, 127
        jmp     leave
misused:
        mov     edi, 2
        lea     rsi, [rip + usage]
        mov     edx, offset usage_end - usage
        mov     eax, SYS_write
        syscall
        mov     edi, 1
leave:
        mov     eax, SYS_exit_group
        syscall

usage:          .ascii  "usage: gvisor-sentry-prewarmer BINARY ARGV0 [ARGUMENT ...]\n"
usage_end:
