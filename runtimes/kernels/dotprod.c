/* NEON dot product tier: sdot, of ARMv8.2 processors (Cortex-A55, A76 and later). */
#include "neon_dot.h"

#include "loops.h"

static bool supported(void) { return getauxval(AT_HWCAP) & (1ul << 20); /* ASIMDDP */ }

const msq_tier msq_dotprod = {
    "dotprod", "the dot product instructions of ARMv8.2", supported, 0, 1, {6},
    prepare, unpack, tile, fused, arrange, depthwise, requantize, add, multiply,
};
