/* NEON tier, of every aarch64 processor: products of bytes in 16 bits, summed by pairs. */
#include "neon.h"

#define TIER_CARES_FOR_WIDE
#define DOT(sum, weights, x, lane, wide) dot(sum, weights, four_in(x, lane), wide)

/* A lane must be a literal; the compiler keeps one of the four. */
static inline __attribute__((always_inline)) int8x16_t four_in(int8x16_t x, const int lane) {
    const int32x4_t fours = vreinterpretq_s32_s8(x);
    switch (lane) {
        case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 0));
        case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 1));
        case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 2));
        default: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 3));
    }
}

static inline __attribute__((always_inline)) int32x4_t dot(int32x4_t sum, int8x16_t weights, int8x16_t x,
                                                           const bool wide) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x)), high = vmull_high_s8(weights, x);
    /* Two products of −128 · −128 are one too many for 16 bits. */
    if (wide) return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#include "loops.h"

static bool supported(void) { return true; }

const msq_tier msq_neon = {"neon", "NEON", supported, 0, 1, {6}, prepare, unpack, tile, fused, arrange, depthwise, requantize,
    add, multiply,
};
