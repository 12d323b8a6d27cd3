/* AVX2 tier: products of bytes are summed to 16 bits by pairs, which |w| ≤ 64 cannot overflow, then to 32. */
#define TIER_CARES_FOR_WIDE
#include "ymm.h"

static inline __attribute__((always_inline)) __m256i dot(__m256i sum, __m256i weights, __m256i x, const bool wide) {
    if (!wide) {
        const __m256i pairs = _mm256_maddubs_epi16(x, weights);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    /* Even and odd bytes apart, in 16 bits each. */
    const __m256i low = _mm256_set1_epi16(0xff);
    const __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(x, low), _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(weights, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

/* The same over four outputs. */
static inline __attribute__((always_inline)) __m128i dot_128(__m128i sum, __m128i x, __m128i weights, const bool wide) {
    return _mm_add_epi32(sum, _mm256_castsi256_si128(dot(_mm256_setzero_si256(), _mm256_castsi128_si256(weights),
                                                         _mm256_castsi128_si256(x), wide)));
}

#define SUM_256(sum, x, w) dot(sum, w, x, wide)
#define SUM_128(sum, x, w) dot_128(sum, x, w, wide)
DEPTHWISE(depthwise_32, 2, __m256i, _mm256, DEAL_256, SUM_256)
DEPTHWISE(depthwise_16, 1, __m128i, _mm, DEAL_128, SUM_128)
DEPTHWISE_OVER(BLOCKS)

#include "loops.h"

static bool supported(void) { return HAS_AVX2(msq_x86_features()); }

const msq_tier msq_avx2 = {
    "avx2", "AVX2", supported, FLIP, 1, {6},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
