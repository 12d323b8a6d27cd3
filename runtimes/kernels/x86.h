/* What an x86 processor can do, by CPUID and by what the system saves of its registers. */
#ifndef MSQ_X86_H
#define MSQ_X86_H

#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>

enum { YMM = 0x6, ZMM = 0xe6 }; /* XCR0: which registers the system saves */

typedef struct {
    uint32_t leaf7_b, leaf7_c, leaf7_1_a;
    uint64_t saved;
} msq_x86;

static inline msq_x86 msq_x86_features(void) {
    msq_x86 found = {0};
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) return found; /* OSXSAVE */
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    found.saved = (uint64_t)high << 32 | low;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        found.leaf7_b = b;
        found.leaf7_c = c;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) found.leaf7_1_a = a;
    }
    return found;
}

#define HAS_AVX2(f) (((f).saved & YMM) == YMM && ((f).leaf7_b & (1u << 5)))
#define HAS_AVXVNNI(f) ((f).leaf7_1_a & (1u << 4))
#define HAS_GFNI(f) ((f).leaf7_c & (1u << 8))
#define HAS_AVX512(f) /* F, BW, VL */ \
    (((f).saved & ZMM) == ZMM && ((f).leaf7_b & (1u << 16)) && ((f).leaf7_b & (1u << 30)) && ((f).leaf7_b & (1u << 31)))
#define HAS_AVX512_VNNI(f) ((f).leaf7_c & (1u << 11))

#endif
