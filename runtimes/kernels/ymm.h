/* What the AVX2 and AVX-VNNI tiers share: registers of eight outputs. They define how a product of fours is summed. */
#include <immintrin.h>
#include <string.h>

#include "depthwise_x86.h"
#include "tier.h"
#include "x86.h"

typedef struct {
    __m256i twice, zero; /* w = code + (code & twice) − zero */
} grid256;

#define VEC __m256i
#define LANES 8
#define WEIGHTS __m256i
#define INPUTS const uint8_t *
#define GRID grid256
#define GRID_OF(grid) grid_of(grid)
#define ZERO() _mm256_setzero_si256()
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define LOAD_WEIGHTS(p) _mm256_load_si256((const __m256i *)(p))
#define STORE_WEIGHTS(p, w) _mm256_store_si256((__m256i *)(p), w)
#define LOAD_16(p) (p)
#define LOAD_4(p) (p)
#define DOT(sum, weights, x, lane, wide) dot(sum, weights, inputs_of((x) + 4 * (lane)), wide)
#define WEIGHTS_OF(block, v, bits, group, grid) weights_of((block) + 32 * (v), bits, group, grid)
#define FLIP 0x80
#define TIER_SUMS 12
#define TIER_TILES(TILE) \
    TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)

static inline __attribute__((always_inline)) __m256i inputs_of(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

static inline grid256 grid_of(const msq_grid *grid) {
    return (grid256){_mm256_set1_epi8(grid->a == 2 ? -1 : 0), _mm256_set1_epi8((char)grid->z)};
}

/* Bits shift … shift + plane − 1 of every byte of an atom, brought to bit `low`. */
static inline __attribute__((always_inline)) __m256i plane_of(const uint8_t *atom, const int plane, const int shift,
                                                              const int low) {
    const __m256i packed = _mm256_loadu_si256((const __m256i *)atom);
    const __m256i moved = shift > low   ? _mm256_srli_epi16(packed, shift - low)
                          : shift < low ? _mm256_slli_epi16(packed, low - shift)
                                        : packed;
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)(((1 << plane) - 1) << low)));
}

static inline __attribute__((always_inline)) __m256i weights_of(const uint8_t *block, const int bits, const int group,
                                                                grid256 grid) {
    const msq_planes planes = msq_planes_of(bits);
    const int first = planes.first, second = planes.second, third = planes.third;
    __m256i code = plane_of(block + group * first / 8 * ATOM, first, group * first % 8, 0);
    if (second)
        code = _mm256_or_si256(code, plane_of(block + (first + group * second / 8) * ATOM, second, group * second % 8,
                                              first));
    if (third) code = _mm256_or_si256(code, plane_of(block + (first + second) * ATOM, third, group, first + second));
    return _mm256_sub_epi8(_mm256_add_epi8(code, _mm256_and_si256(code, grid.twice)), grid.zero);
}

#define TIER_HAS_DEPTHWISE
#define TIER_HAS_ARRANGE
#define INPUT uint8_t
#define BLOCKS(DO) DO(32) DO(16)
