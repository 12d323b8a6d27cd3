/* Depthwise sums by x86's dot instructions: the bytes of four taps are brought side by side, channel by channel.
 *
 * Unpacking works within the 128-bit parts of a register: of 16 · W channels, register j of four holds channels
 * 16·L + 4·j … + 3 in part L. Weights are arranged so once; sums are stored part by part.
 */
#include <immintrin.h>

#include "tier.h"

/* Makes of NAME two functions for 16 · PARTS channels from `at`:
 *
 *     NAME(quads, x, at, weights, sums)      the sums; SUM4(sums, x, w) is the dot instruction
 *     NAME_weights(quads, w, at, weights)    the weights, of one pointer a tap, arranged for it
 */
#define DEPTHWISE(NAME, PARTS, VEC8, BITS, SUM4) \
    static inline __attribute__((always_inline)) void NAME##_side_by_side(const uint8_t *const *x, int32_t at, \
                                                                          VEC8 *out) { \
        VEC8 a, b, c, d; \
        memcpy(&a, x[0] + at, sizeof a); \
        memcpy(&b, x[1] + at, sizeof b); \
        memcpy(&c, x[2] + at, sizeof c); \
        memcpy(&d, x[3] + at, sizeof d); \
        const VEC8 ab = BITS##_unpacklo_epi8(a, b), cd = BITS##_unpacklo_epi8(c, d); \
        const VEC8 ef = BITS##_unpackhi_epi8(a, b), gh = BITS##_unpackhi_epi8(c, d); \
        out[0] = BITS##_unpacklo_epi16(ab, cd); \
        out[1] = BITS##_unpackhi_epi16(ab, cd); \
        out[2] = BITS##_unpacklo_epi16(ef, gh); \
        out[3] = BITS##_unpackhi_epi16(ef, gh); \
    } \
    static inline void NAME##_weights(int32_t quads, const uint8_t *const *w, int32_t at, int8_t *weights) { \
        for (int32_t quad = 0; quad < quads; quad++, w += 4, weights += 64 * PARTS) { \
            VEC8 out[4]; \
            NAME##_side_by_side(w, at, out); \
            memcpy(weights, out, sizeof out); \
        } \
    } \
    static inline __attribute__((always_inline)) void NAME(int32_t quads, const uint8_t *const *x, int32_t at, \
                                                           const int8_t *weights, const bool wide, int32_t *sums) { \
        (void)wide; \
        VEC8 s[4]; \
        memset(s, 0, sizeof s); \
        for (int32_t quad = 0; quad < quads; quad++, x += 4, weights += 64 * PARTS) { \
            VEC8 now[4], w[4]; \
            NAME##_side_by_side(x, at, now); \
            memcpy(w, weights, sizeof w); \
            s[0] = SUM4(s[0], now[0], w[0]); \
            s[1] = SUM4(s[1], now[1], w[1]); \
            s[2] = SUM4(s[2], now[2], w[2]); \
            s[3] = SUM4(s[3], now[3], w[3]); \
        } \
        for (int part = 0; part < PARTS; part++) \
            for (int j = 0; j < 4; j++) memcpy(sums + 16 * part + 4 * j, (const char *)&s[j] + 16 * part, 16); \
    }
