/*
 * The guest of the example: a 64 KiB PC firmware that rewrites and checks a working set for ever.
 *
 * It takes its knobs from, and leaves its results in, one control page of guest memory (its layout
 * is in control-page.ts; the CTL_ offsets below are the same numbers). It owns that page, one stack
 * page and the working set, and touches nothing else: what nobody asked for is never populated.
 *
 * Linked at 0xF0000, where a PC maps the last 64 KiB of its firmware: symbols are linear addresses.
 * build-firmware.sh assembles it.
 */

        .set ROM_BASE, 0xF0000
        .set CTL, 0x1000
        .set STACK_TOP, 0x3000

        .set CTL_MAGIC, CTL + 0x00
        .set CTL_START, CTL + 0x08
        .set CTL_PAGES, CTL + 0x0C
        .set CTL_RATE, CTL + 0x10
        .set CTL_WRITTEN, CTL + 0x18
        .set CTL_GRANTED, CTL + 0x20
        .set CTL_GENERATION, CTL + 0x28
        .set CTL_ERRORS, CTL + 0x2C
        .set CTL_BAD_PAGE, CTL + 0x30
        .set CTL_HEARTBEAT, CTL + 0x34
        .set CTL_FLAG_ERRORS, CTL + 0x38
        .set CTL_FAULTS, CTL + 0x3C
        .set CTL_ALLOWANCE, CTL + 0x40
        .set CTL_REMAINDER, CTL + 0x44
        .set CTL_LAST_TSC, CTL + 0x48

        .set MAGIC, 0x4746444D          /* "MDFG" */
        .set PAGE_FACTOR, 0x9E3779B1    /* odd constants: neighbouring pages and generations */
        .set GENERATION_FACTOR, 0x85EBCA6B /* get stamps that have nothing in common */
        .set ROTATING_PATTERN, 0x5BD1E995
        .set TSC_HZ, 1000000000         /* v86 counts nanoseconds */
        .set GRANT_MAX_TICKS, 50000000  /* 50 ms: no burst after a pause */
        .set PIT_RELOAD, 1193           /* 1193182 Hz / 1193: one tick a millisecond */
        .set COM1, 0x3F8

        .text
        .code16
rom:
        cli
        cld
        lgdtl   %cs:(gdt_pointer - rom)
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $0x08, $entry32

        .code32
entry32:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $STACK_TOP, %esp
        lidt    idt_pointer
        cmpl    $MAGIC, CTL_MAGIC
        je      set_up
        movl    $text_no_control, %esi
        call    print
        jmp     dead

set_up:
        call    set_up_timer
        movl    $text_start, %esi
        call    print
        movl    CTL_PAGES, %eax
        call    print_decimal
        movl    $text_pages, %esi
        call    print
        rdtsc
        movl    %eax, CTL_LAST_TSC
        movl    %edx, CTL_LAST_TSC + 4
        xorl    %ebp, %ebp              /* generation */
        xorl    %ebx, %ebx              /* generation * GENERATION_FACTOR */
        sti

next_generation:
        incl    %ebp
        addl    $GENERATION_FACTOR, %ebx
        movl    %ebp, CTL_GENERATION
        xorl    %esi, %esi              /* page index */
        movl    CTL_START, %edi         /* page address */

next_page:
        cmpl    $1, %ebp                /* the first pass initialises: no check, no pacing */
        je      rewrite
pace:
        cmpl    $0, CTL_RATE
        je      check
        subl    $1, CTL_ALLOWANCE
        jnc     check
        movl    $0, CTL_ALLOWANCE
        call    grant
        testl   %eax, %eax
        jnz     pace
        /*
         * Idle until the next tick. The flags are carried over the halt on purpose: a migration
         * mostly finds a paced guest here, so a destination that restores EFLAGS wrongly is seen.
         * The values differ from a fresh processor's: sign and carry set, zero clear.
         */
        movl    $0x80000000, %eax
        orl     $3, %eax
        stc
        hlt
        jz      flags_lost
        jns     flags_lost
        jnc     flags_lost
        jmp     pace
flags_lost:
        incl    CTL_FLAG_ERRORS
        jmp     pace

/* The page must carry all four kinds of stamp of the generation before. */
check:
        imull   $PAGE_FACTOR, %esi, %ecx
        leal    -GENERATION_FACTOR(%ecx,%ebx), %eax
        leal    -1(%esi,%ebp), %edx
        andl    $255, %edx
        cmpl    %eax, (%edi)
        jne     bad
        notl    %eax
        cmpl    %eax, 2048(%edi)
        jne     bad
        roll    $16, %eax
        cmpl    %eax, 4092(%edi)
        jne     bad
        xorl    $ROTATING_PATTERN, %eax
        cmpl    %eax, 4(%edi,%edx,4)
        jne     bad
        negl    %edx
        cmpl    %eax, 4088(%edi,%edx,4)
        jne     bad

rewrite:
        imull   $PAGE_FACTOR, %esi, %eax
        addl    %ebx, %eax
        leal    (%esi,%ebp), %edx
        andl    $255, %edx
        movl    %eax, (%edi)
        notl    %eax
        movl    %eax, 2048(%edi)
        roll    $16, %eax
        movl    %eax, 4092(%edi)
        xorl    $ROTATING_PATTERN, %eax
        movl    %eax, 4(%edi,%edx,4)    /* dwords 1 to 256 in turn */
        negl    %edx
        movl    %eax, 4088(%edi,%edx,4) /* and dwords 1022 down to 767 */

        addl    $1, CTL_WRITTEN
        adcl    $0, CTL_WRITTEN + 4
        addl    $4096, %edi
        incl    %esi
        cmpl    CTL_PAGES, %esi
        jb      next_page
        jmp     next_generation

/* Counted once per page; the rewrite that follows repairs it. Only the first one is printed. */
bad:
        movl    %esi, CTL_BAD_PAGE
        incl    CTL_ERRORS
        cmpl    $1, CTL_ERRORS
        jne     rewrite
        pushl   %esi
        movl    $text_bad, %esi
        call    print
        movl    (%esp), %eax
        call    print_decimal
        movl    $text_generation, %esi
        call    print
        movl    %ebp, %eax
        call    print_decimal
        movl    $text_newline, %esi
        call    print
        popl    %esi
        jmp     rewrite

/*
 * Sets the allowance to the pages earned since the last grant, and returns it in EAX.
 * Elapsed ticks (at most GRANT_MAX_TICKS) * rate + remainder, divided by TSC_HZ: rounding loses
 * nothing.
 */
grant:
        rdtsc
        movl    %eax, %ecx
        movl    %edx, %eax
        xchgl   %ecx, CTL_LAST_TSC      /* ECX, EDX become the time of the last grant */
        xchgl   %edx, CTL_LAST_TSC + 4
        subl    %edx, %eax
        movl    %eax, %edx
        movl    CTL_LAST_TSC, %eax
        subl    %ecx, %eax
        sbbl    $0, %edx
        jnz     grant_most
        cmpl    $GRANT_MAX_TICKS, %eax
        jbe     grant_ticks
grant_most:
        movl    $GRANT_MAX_TICKS, %eax
grant_ticks:
        mull    CTL_RATE
        addl    CTL_REMAINDER, %eax
        adcl    $0, %edx
        movl    $TSC_HZ, %ecx
        divl    %ecx
        movl    %edx, CTL_REMAINDER
        movl    %eax, CTL_ALLOWANCE
        addl    %eax, CTL_GRANTED
        adcl    $0, CTL_GRANTED + 4
        ret

/* IRQ 0 at vector 0x20, all others masked; PIT channel 0 as a rate generator. */
set_up_timer:
        movl    $timer_script, %esi
1:      movzbl  (%esi), %edx
        testl   %edx, %edx
        jz      2f
        movb    1(%esi), %al
        outb    %al, %dx
        addl    $2, %esi
        jmp     1b
2:      ret

timer_interrupt:
        pushl   %eax
        incl    CTL_HEARTBEAT
        movb    $0x20, %al
        outb    %al, $0x20
        popl    %eax
        iret

spurious_interrupt:
        iret

/* A processor exception: this firmware causes none, so a guest that gets here was damaged. */
fault:
        incl    CTL_FAULTS
        movl    $text_fault, %esi
        call    print
dead:
        cli
        hlt
        jmp     dead

/* Prints the zero-terminated text at ESI on COM1. */
print:
        movw    $COM1 + 5, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        lodsb
        testb   %al, %al
        jz      2f
        movw    $COM1, %dx
        outb    %al, %dx
        jmp     print
2:      ret

/* Prints EAX in decimal on COM1. */
print_decimal:
        subl    $12, %esp
        leal    11(%esp), %esi
        movb    $0, (%esi)
        movl    $10, %ecx
1:      xorl    %edx, %edx
        divl    %ecx
        addb    $'0', %dl
        decl    %esi
        movb    %dl, (%esi)
        testl   %eax, %eax
        jnz     1b
        call    print
        addl    $12, %esp
        ret

/* Pairs of port and value, ended by port 0. */
timer_script:
        .byte   0x20, 0x11, 0xA0, 0x11
        .byte   0x21, 0x20, 0xA1, 0x28
        .byte   0x21, 0x04, 0xA1, 0x02
        .byte   0x21, 0x01, 0xA1, 0x01
        .byte   0x21, 0xFE, 0xA1, 0xFF
        .byte   0x43, 0x34
        .byte   0x40, PIT_RELOAD & 0xFF, 0x40, PIT_RELOAD >> 8
        .byte   0

text_start:      .asciz "multifd firmware: working set "
text_pages:      .asciz " pages\n"
text_bad:        .asciz "multifd firmware: error: page "
text_generation: .asciz " is not as written, found in generation "
text_newline:    .asciz "\n"
text_fault:      .asciz "multifd firmware: error: processor exception\n"
text_no_control: .asciz "multifd firmware: error: no control page\n"

/* Flat segments, "accessed" already set: nothing writes into the ROM image at run time. */
        .balign 8
gdt:
        .quad   0
        .quad   0x00CF9B000000FFFF
        .quad   0x00CF93000000FFFF
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .macro  gate handler
        .word   \handler - rom  /* within one 64 KiB: the high half is fixed */
        .word   0x08, 0x8E00, ROM_BASE >> 16
        .endm

        .balign 8
idt:
        .rept   32
        gate    fault
        .endr
        gate    timer_interrupt
        .rept   7
        gate    spurious_interrupt
        .endr
idt_pointer:
        .word   idt_pointer - idt - 1
        .long   idt

/* The processor starts at F000:FFF0. */
        .org    0xFFF0
        .code16
        ljmp    $0xF000, $0
        .org    0x10000
