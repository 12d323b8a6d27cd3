/* Which tier runs: the best that the processor has, unless one is asked for; and why a call failed. */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msq_kernels.h"
#include "tier.h"

static const msq_tier *const BUILT[] = {
#if defined(__x86_64__)
    &msq_avx512vnni, &msq_avxvnni, &msq_avx2,
#elif defined(__aarch64__)
    &msq_i8mm, &msq_dotprod, &msq_neon,
#endif
    &msq_scalar,
};
enum { BUILT_COUNT = sizeof BUILT / sizeof *BUILT };

static const msq_tier *_Atomic chosen;
static _Thread_local char error[256];

int msq_fail(int status, const char *format, ...) {
    char text[sizeof error];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    memcpy(error, text, sizeof error);
    return status;
}

const char *msq_error(void) { return error; }

uint32_t msq_kernels_abi(void) { return MSQ_KERNELS_ABI; }

const char *msq_built_tier(int32_t index) {
    return index >= 0 && index < (int32_t)BUILT_COUNT ? BUILT[index]->name : NULL;
}

static const msq_tier *best(void) {
    size_t index = 0;
    while (!BUILT[index]->supported()) index++; /* the last, scalar, always is */
    return BUILT[index];
}

static const msq_tier *named(const char *name) {
    for (size_t i = 0; i < BUILT_COUNT; i++) {
        if (strcmp(BUILT[i]->name, name)) continue;
        if (BUILT[i]->supported()) return BUILT[i];
        msq_fail(MSQ_UNSUPPORTED, "tier %s needs %s, which this processor lacks; %s would do", name, BUILT[i]->needs,
                 best()->name);
        return NULL;
    }
    msq_fail(MSQ_UNSUPPORTED, "no tier is named %s here; %s would do", name, best()->name);
    return NULL;
}

const msq_tier *msq_current_tier(void) {
    const msq_tier *tier = atomic_load(&chosen);
    if (tier) return tier;
    const char *asked = getenv("MSQ_KERNELS_TIER");
    tier = asked && *asked ? named(asked) : best();
    if (tier) atomic_store(&chosen, tier);
    return tier;
}

const char *msq_tier_name(void) {
    const msq_tier *tier = msq_current_tier();
    return tier ? tier->name : NULL;
}

msq_status msq_use_tier(const char *name) {
    const msq_tier *tier = name ? named(name) : best();
    if (tier == NULL) return MSQ_UNSUPPORTED;
    atomic_store(&chosen, tier);
    return MSQ_OK;
}
