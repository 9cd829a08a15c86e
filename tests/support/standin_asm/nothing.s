# A sidecar that the tests never need to do anything: it ends with 0. It has the text `release` at its end, as those have.

        .intel_syntax noprefix
        .set    SYS_exit_group, 231

        .text
        .globl  _start
_start:
        xor     edi, edi
        mov     eax, SYS_exit_group
        syscall
