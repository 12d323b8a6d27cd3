/* The product of fours by sdot, of the tiers whose processors have it. */
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
