// A guest that says "echo ready" on COM1 and gives back what comes in there, until Ctrl-R comes:
// then it resets itself.
//
// Entered as PVH does: 32-bit protected mode, no paging, flat segments.

#define COM1          0x3f8
#define LINE_STATUS   (COM1 + 5)
#define DATA_READY    1
#define KEYBOARD      0x64
#define RESET         0xfe
#define CTRL_R        0x12

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
        cld
        mov     $COM1, %edx
        mov     $ready, %esi
say:
        lodsb
        test    %al, %al
        jz      wait
        out     %al, (%dx)
        jmp     say
wait:
        mov     $LINE_STATUS, %edx
        in      (%dx), %al
        test    $DATA_READY, %al
        jz      wait
        mov     $COM1, %edx
        in      (%dx), %al
        out     %al, (%dx)
        cmp     $CTRL_R, %al
        jne     wait
        mov     $RESET, %al
        out     %al, $KEYBOARD
        hlt

        .data
ready:
        .asciz  "echo ready\n"
