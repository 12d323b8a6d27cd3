/* SHA-256's rounds by the processor's own instructions; compiled with them, used where it has them. */
#include "sha256.h"

#if defined(__SHA__)
#include <cpuid.h>
#include <immintrin.h>

static bool supported(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 29;
}

static void mix(uint32_t state[8], const uint8_t *bytes, size_t blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    /* The instructions take the state as (f, e, b, a) and (h, g, d, c), lowest first. */
    const __m128i dcba = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i feba = _mm_alignr_epi8(dcba, hgfe, 8), hgdc = _mm_blend_epi16(hgfe, dcba, 0xf0);
    for (; blocks; blocks--, bytes += 64) {
        const __m128i first = feba, second = hgdc;
        __m128i w[4];
        for (int i = 0; i < 16; i++) {
            if (i < 4)
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)bytes + i), big_endian);
            else
                w[i % 4] = _mm_sha256msg2_epu32(
                    _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                  _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4)), w[(i + 3) % 4]);
            const __m128i sum =
                _mm_add_epi32(w[i % 4], _mm_loadu_si128((const __m128i *)(MSQ_SHA256_ROUND + 4 * i)));
            hgdc = _mm_sha256rnds2_epu32(hgdc, feba, sum);
            feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(sum, 0x0e));
        }
        feba = _mm_add_epi32(feba, first);
        hgdc = _mm_add_epi32(hgdc, second);
    }
    const __m128i abef = _mm_shuffle_epi32(feba, 0x1b), ghcd = _mm_shuffle_epi32(hgdc, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(abef, ghcd, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(ghcd, abef, 8));
}

#elif defined(__ARM_FEATURE_SHA2)
#include <arm_neon.h>
#include <sys/auxv.h>

static bool supported(void) { return getauxval(AT_HWCAP) & 1ul << 6; /* SHA2 */ }

static void mix(uint32_t state[8], const uint8_t *bytes, size_t blocks) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; blocks; blocks--, bytes += 64) {
        const uint32x4_t first = abcd, second = efgh;
        uint32x4_t w[4];
        for (int i = 0; i < 16; i++) {
            if (i < 4)
                w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(bytes + 16 * i)));
            else
                w[i % 4] = vsha256su1q_u32(vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]), w[(i + 2) % 4], w[(i + 3) % 4]);
            const uint32x4_t sum = vaddq_u32(w[i % 4], vld1q_u32(MSQ_SHA256_ROUND + 4 * i)), before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, before, sum);
        }
        abcd = vaddq_u32(abcd, first);
        efgh = vaddq_u32(efgh, second);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

#else
static bool supported(void) { return false; }
#define mix NULL
#endif

msq_sha256_mix msq_sha256_instructions(void) { return supported() ? mix : NULL; }
