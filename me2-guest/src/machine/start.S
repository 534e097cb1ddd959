# Start-up, and everything that runs in ring 0. Ring 0 may be emulated by the host, a million
# instructions a second and no more, so tables are laid out at build time and all else is left to ring 3.

    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18                  # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .text.start, "ax"

# PVH entry of CPU 0: 32-bit protected mode, flat segments, no paging, EBX = start-info address.
    .code32
    .global pvh_start
pvh_start:
    cli
    cld
    mov %ebx, boot_start_info
    # A descriptor scatters its base, which no relocation can do. Ring 3 does the other CPUs'.
    mov $tss, %eax
    mov %ax, gdt_tss + 2
    shr $16, %eax
    mov %al, gdt_tss + 4
    mov %ah, gdt_tss + 7
    jmp enter_long_mode

# The other CPUs come here from the trampoline, in 32-bit protected mode.
ap_start32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss

enter_long_mode:
    mov $0x620, %eax                # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx           # EFER: LME
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80000033, %eax           # PG, NE, ET, MP, PE
    mov %eax, %cr0
    lgdt gdtr
    ljmp $0x08, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    lidt idtr
    mov boot_cpu, %edi
    mov %edi, %eax
    shl $4, %eax
    add $0x30, %eax
    ltr %ax
    # CPUID in ring 3 may be answered by the host's processor, here it is the guest's.
    mov $0x40000000, %eax
    cpuid
    cmp $0x4b4d564b, %ebx           # "KVMK"
    jne 1f
    mov $0x40000001, %eax
    cpuid
    test $8, %eax                   # KVM_FEATURE_CLOCKSOURCE2
    jz 1f
    mov $0x4b564d01, %ecx           # MSR_KVM_SYSTEM_TIME_NEW
    mov boot_clock, %eax
    or $1, %eax
    xor %edx, %edx
    wrmsr
    movl $1, boot_clock_on
1:
    mov $boot_frame, %esp
    iretq

# Ring 3 calls this to sleep until an interrupt, once it has armed the timer. An invalid instruction takes it
# to ring 0: SYSCALL would be the usual way, but not every host leaves ring 3 by it, nor by INT.
    .global sleep_call
sleep_call:
    ud2
    ret

# Invalid instructions come here.
    .global invalid_opcode_entry
invalid_opcode_entry:
    cmpq $sleep_call, (%rsp)
    jne exception_entries + 16 * 6
    addq $2, (%rsp)                 # behind the instruction
    sti
    hlt
    iretq

# The timer. It ends a sleep if it comes on either side of the HLT, so no tick is lost between STI and HLT;
# if it comes in ring 3, it changes nothing.
    .global interrupt_entry
interrupt_entry:
    push %rax
    mov $0xfee000b0, %eax           # end of interrupt
    movl $0, (%rax)
    pop %rax
    testb $3, 8(%rsp)
    jnz 1f
    mov 24(%rsp), %rsp              # back to the frame that the sleep came in by
1:
    iretq

# Exceptions: hand vector, error code, RIP and CR2 to fault_entry in ring 3. They never return.
fault_common:
    pop %rdi
    pop %rsi
    mov (%rsp), %rdx
    mov %cr2, %rcx
    mov 24(%rsp), %rax
    sub $256, %rax                  # past the red zone
    and $-16, %rax
    sub $8, %rax
    movq $fault_entry, (%rsp)
    movq $0x1b, 8(%rsp)
    movq $0x3002, 16(%rsp)
    mov %rax, 24(%rsp)
    movq $0x23, 32(%rsp)
    iretq

# One stub of 16 bytes for each of the 32 exception vectors.
    .align 16
    .global exception_entries
exception_entries:
    vector = 0
    .rept 32
    .align 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0                        # the processor pushes an error code for the others
    .endif
    pushq $vector
    jmp fault_common
    vector = vector + 1
    .endr

# Copied to a page below 1 MiB: where a CPU starts after INIT and SIPI, in real mode.
    .section .rodata.trampoline, "a"
    .code16
    .global ap_trampoline
    .global ap_trampoline_end
ap_trampoline:
    cli
    lgdtl %cs:(ap_gdtr - ap_trampoline)
    mov $0x11, %eax
    mov %eax, %cr0
    ljmpl $0x28, $ap_start32
ap_gdtr:
    .word gdt_end - gdt - 1
    .long gdt
ap_trampoline_end:
    .code64

    .section .data.start, "aw"
    .align 4096
    .global pml4
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
# 0..1 GiB, and the local APIC's page in 3..4 GiB. Ring 3 adds the rest of the memory.
    .global pdpt
pdpt:
    .quad pd_0 + 7, 0, 0, pd_3 + 7
    .fill 508, 8, 0
pd_0:
    frame = 0
    .rept 512
    .quad frame + 0x87
    frame = frame + 0x200000
    .endr
    .global pd_3
pd_3:
    .fill 503, 8, 0
    .quad 0xfee0009f                # uncached
    .fill 8, 8, 0

    .align 16
    .global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 code, ring 0
    .quad 0x00cf93000000ffff        # 0x10 data, ring 0
    .quad 0x00affb000000ffff        # 0x18 code, ring 3
    .quad 0x00cff3000000ffff        # 0x20 data, ring 3
    .quad 0x00cf9b000000ffff        # 0x28 code, 32-bit
    .global gdt_tss
gdt_tss:                            # 0x30 + 16 * cpu
    .rept 8
    .quad 0x00008900000000e8, 0
    .endr
gdt_end:
gdtr:
    .word gdt_end - gdt - 1
    .quad gdt
idtr:
    .word 4095
    .quad idt

# A task state segment and a stack for exceptions of each CPU; 256 bytes apart. The I/O bitmap allows the
# ports up to 0x3ff: not every host carries IOPL 3 into ring 3.
    .align 256
    .global tss
tss:
    top = 1024
    .rept 8
    .long 0
    .quad fault_stacks + top
    .fill 90, 1, 0
    .word 104                       # where the I/O bitmap is
    .fill 128, 1, 0
    .fill 24, 1, 0xff
    top = top + 1024
    .endr

# What a starting CPU is given: set for CPU 0 here, for the others by ring 3 before each is started.
    .align 8
    .global boot_frame
boot_frame:
    .quad boot_entry, 0x1b, 0x3002, stack_0 + 65536 - 8, 0x23
    .global boot_cpu
boot_cpu:
    .long 0
    .global boot_clock
boot_clock:
    .long clock_0
    .global boot_clock_on
boot_clock_on:
    .long 0
    .global boot_start_info
boot_start_info:
    .long 0

    .section .bss.start, "aw", @nobits
    .align 4096
    .global idt
idt:
    .skip 4096
# The host writes the time here, so the page has nothing else in it.
    .global clock_0
clock_0:
    .skip 4096
fault_stacks:
    .skip 8192
stack_0:
    .skip 65536
