/* NEON dot product tier: sdot, of ARMv8.2 processors (Cortex-A55, A76 and later). */
#include "neon.h"

#define DOT(sum, weights, x, lane, wide) dot(sum, weights, x, lane)

/* A lane must be a literal; the compiler keeps one of the four. */
static inline __attribute__((always_inline)) int32x4_t dot(int32x4_t sum, int8x16_t weights, int8x16_t x,
                                                           const int lane) {
    switch (lane) {
        case 0: return vdotq_laneq_s32(sum, weights, x, 0);
        case 1: return vdotq_laneq_s32(sum, weights, x, 1);
        case 2: return vdotq_laneq_s32(sum, weights, x, 2);
        default: return vdotq_laneq_s32(sum, weights, x, 3);
    }
}

#include "loops.h"

static bool supported(void) { return getauxval(AT_HWCAP) & (1ul << 20); /* ASIMDDP */ }

const msq_tier msq_dotprod = {
    "dotprod", "the dot product instructions of ARMv8.2", supported, 0, 1, {6},
    prepare, unpack, tile, fused, arrange, depthwise, requantize,
};
