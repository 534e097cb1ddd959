// A guest that counts, in ring 3, and remembers the number in all of its pages.
//
// Each step checks that every page of two regions holds the last number, at its beginning and at
// its end, writes the next one there, and prints it to COM1 as "count 0000002a". A page that holds
// anything else ends the VM with status 1. The numbers that it prints have no gap and no
// repetition, wherever it runs.
//
// Entered as PVH does: 32-bit protected mode, no paging. SECOND_REGION: see own_guest.rs.

#define FIRST_REGION  0x2000000
#define REGION_PAGES  512

#define COM1          0x3f8
#define EXIT_PORT     0xf4
#define IDLE_ROUNDS   5000000

#define PRESENT_WRITABLE_USER 7
#define LARGE_PAGE    0x80
#define GIBIBYTES     5

        .section .note.Xen, "a", @note
        .align  4
        .long   4, 4, 18                // name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   start

        .text
        .code32
        .global start
start:
        cli
        mov     $stack_top, %esp

        // Page tables: GIBIBYTES from 0 on, each address to itself, in pages of 2 MiB.
        movl    $level3 + PRESENT_WRITABLE_USER, level4
        mov     $level3, %edi
        mov     $level2 + PRESENT_WRITABLE_USER, %eax
        mov     $GIBIBYTES, %ecx
next_table:
        mov     %eax, (%edi)
        add     $4096, %eax
        add     $8, %edi
        loop    next_table

        mov     $level2, %edi
        mov     $(LARGE_PAGE + PRESENT_WRITABLE_USER), %eax
        xor     %edx, %edx
        mov     $(512 * GIBIBYTES), %ecx
next_page:
        mov     %eax, (%edi)
        mov     %edx, 4(%edi)
        add     $0x200000, %eax
        adc     $0, %edx
        add     $8, %edi
        loop    next_page

        // Long mode: PAE, SSE allowed; EFER.LME; paging.
        mov     $0x620, %eax
        mov     %eax, %cr4
        mov     $level4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     $0x80000033, %eax
        mov     %eax, %cr0
        lgdt    table
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        // To ring 3, which may use all I/O ports (IOPL 3); no interrupts.
        pushq   $0x23
        pushq   $stack_top
        pushq   $0x3002
        pushq   $0x1b
        pushq   $count
        iretq

// r12: the last number.
count:
        xor     %r12, %r12
step:
        lea     1(%r12), %r13
        mov     $FIRST_REGION, %rdi
        call    renew
        movabs  $SECOND_REGION, %rdi
        call    renew
        mov     %r13, %r12
        call    print
        mov     $IDLE_ROUNDS, %ecx
idle:
        dec     %ecx
        jnz     idle
        jmp     step

// From r12 to r13 in all pages of the region at rdi.
renew:
        mov     $REGION_PAGES, %ecx
next:
        cmp     %r12, (%rdi)
        jne     wrong
        cmp     %r12, 4088(%rdi)
        jne     wrong
        mov     %r13, (%rdi)
        mov     %r13, 4088(%rdi)
        add     $4096, %rdi
        dec     %ecx
        jnz     next
        ret

// Prints r12's lower half.
print:
        mov     $COM1, %edx
        lea     label, %rsi
        call    print_text
        mov     $8, %ecx
        mov     %r12d, %ebx
digit:
        rol     $4, %ebx
        mov     %ebx, %eax
        and     $15, %eax
        movzbl  digits(%rax), %eax
        out     %al, %dx
        dec     %ecx
        jnz     digit
        mov     $10, %al
        out     %al, %dx
        ret

// Prints the text at rsi, which ends in a zero, to port dx.
print_text:
        movzbl  (%rsi), %eax
        test    %al, %al
        jz      printed
        out     %al, %dx
        inc     %rsi
        jmp     print_text
printed:
        ret

wrong:
        mov     $COM1, %edx
        lea     wrong_text, %rsi
        call    print_text
        mov     $EXIT_PORT, %edx
        mov     $1, %eax
        out     %eax, %dx
ended:
        jmp     ended

        .data
label:
        .asciz  "count "
wrong_text:
        .asciz  "wrong\n"
digits:
        .ascii  "0123456789abcdef"
        .align  8
descriptors:                            // null, code and data of ring 0, code and data of ring 3
        .quad   0
        .quad   0x00af9b000000ffff
        .quad   0x00cf93000000ffff
        .quad   0x00affb000000ffff
        .quad   0x00cff3000000ffff
table:
        .word   39
        .long   descriptors

        .bss
        .align  4096
level4: .skip   4096
level3: .skip   4096
level2: .skip   4096 * GIBIBYTES
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
