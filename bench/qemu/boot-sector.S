/*
 * The guest that real QEMUs run in tests: one boot sector that counts, and rewrites a window of
 * memory for ever. What it writes follows from the counter alone, so that from any copy of its RAM
 * one can tell a page that is too old, or torn (boot-sector.ts).
 *
 * Dword i of the window holds generation * GENERATION_FACTOR + i * DWORD_FACTOR. Before it rewrites
 * a dword the guest checks that it holds the generation before, and counts what does not: a page
 * that a migration lost is seen by the guest itself, within one generation.
 *
 * build-boot-sector.sh assembles it. The BIOS loads it at 0x7C00; the knobs at its end are written
 * by whoever makes the disk.
 */

        .set COUNTER, 0x9000            /* pages of the window written so far */
        .set ERRORS, 0x9004             /* dwords that were not as written */
        .set BAD_ADDRESS, 0x9008        /* the last of them */
        .set STARTED, 0x900C            /* MAGIC since the guest runs */

        .set MAGIC, 0x4746444D          /* "MDFG" */
        .set GENERATION_FACTOR, 0x9E3779B1
        .set DWORD_FACTOR, 0x85EBCA6B
        .set PAGE_DWORDS, 1024
        .set KNOBS, 0x1A0

        .text
        .code16
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        lgdtl   gdt_pointer
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
        xorl    %eax, %eax
        movl    %eax, COUNTER
        movl    %eax, ERRORS
        movl    %eax, BAD_ADDRESS
        movl    $MAGIC, STARTED
        xorl    %ebp, %ebp              /* generation */

next_generation:
        incl    %ebp
        imull   $GENERATION_FACTOR, %ebp, %ebx
        movl    window_start, %edi
        movl    window_pages, %edx

next_page:
        movl    $PAGE_DWORDS, %ecx
next_dword:
        cmpl    $1, %ebp                /* the first generation finds what the BIOS left */
        je      rewrite
        leal    -GENERATION_FACTOR(%ebx), %eax
        cmpl    %eax, (%edi)
        je      rewrite
        incl    ERRORS
        movl    %edi, BAD_ADDRESS
rewrite:
        movl    %ebx, (%edi)
        addl    $DWORD_FACTOR, %ebx
        addl    $4, %edi
        decl    %ecx
        jnz     next_dword

        incl    COUNTER
        movl    idle_turns, %ecx
        jecxz   page_done
idle:
        decl    %ecx
        jnz     idle
page_done:
        decl    %edx
        jnz     next_page
        jmp     next_generation

/* Flat segments, "accessed" already set. */
        .balign 8
gdt:
        .quad   0
        .quad   0x00CF9B000000FFFF
        .quad   0x00CF93000000FFFF
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .org    KNOBS
window_start:
        .long   0x100000
window_pages:
        .long   128
idle_turns:                             /* empty turns of a loop after each page */
        .long   0

        .org    510
        .word   0xAA55
