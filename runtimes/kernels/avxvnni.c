/* AVX-VNNI tier: the dot instruction over eight outputs, of processors without AVX-512. */
#include "ymm.h"

static inline __attribute__((always_inline)) __m256i dot(__m256i sum, __m256i weights, __m256i x, const bool wide) {
    (void)wide;
    return _mm256_dpbusd_avx_epi32(sum, x, weights);
}

#define SUM_256(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w)
#define SUM_128(sum, x, w) _mm_dpbusd_avx_epi32(sum, x, w)
DEPTHWISE(depthwise_32, 2, __m256i, _mm256, DEAL_256, SUM_256)
DEPTHWISE(depthwise_16, 1, __m128i, _mm, DEAL_128, SUM_128)
DEPTHWISE_OVER(BLOCKS)

#include "loops.h"

static bool supported(void) {
    const msq_x86 found = msq_x86_features();
    return HAS_AVX2(found) && HAS_AVXVNNI(found);
}

const msq_tier msq_avxvnni = {
    "avxvnni", "AVX2 and AVX-VNNI", supported, FLIP, 1, {6},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
