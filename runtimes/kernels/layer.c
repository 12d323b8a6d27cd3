/* A layer: what its caller says is checked, and its constants are made. */
#include "layer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t msq_packed_bytes(int32_t outputs, int32_t inputs, int32_t taps, int32_t bits, int32_t depthwise) {
    const size_t n = (size_t)outputs, k = (size_t)inputs * (size_t)taps;
    const size_t codes = depthwise ? msq_rounded(n * k, ATOM) : msq_rounded(n, PANEL) * msq_rounded(k, GROUP);
    return msq_rounded(codes, GROUPS * ATOM) / (GROUPS * ATOM) * (size_t)bits * ATOM;
}

static msq_status checked(const msq_layer_spec *s) {
    if (s->abi != MSQ_KERNELS_ABI)
        return msq_fail(MSQ_ABI, "the caller was built for version %u of the kernels, this is version %u; rebuild one",
                        s->abi, MSQ_KERNELS_ABI);
    if (s->bits < 0 || s->bits > 8) return msq_fail(MSQ_INVALID, "a width of %d bits is not in 0..8", s->bits);
    if (s->bits && !(s->a == 1 && s->z == 1 << (s->bits - 1)) &&
        !(s->a == 2 && s->z == (1 << s->bits) - 1 && s->bits < 8))
        return msq_fail(MSQ_INVALID, "weights of %d bits are %d · code − %d; known are a = 1, z = 2^(bits − 1), and "
                        "a = 2, z = 2^bits − 1 below 8 bits", s->bits, s->a, s->z);
    const int32_t most = 1 << 24;
    if (s->outputs < 1 || s->outputs > most || s->inputs < 1 || s->inputs > most)
        return msq_fail(MSQ_INVALID, "a layer of %d outputs and %d inputs", s->outputs, s->inputs);
    if (s->depthwise && (s->inputs != 1 || s->groups != s->outputs))
        return msq_fail(MSQ_INVALID, "a depthwise layer of %d outputs, %d groups and %d inputs a group", s->outputs,
                        s->groups, s->inputs);
    if (s->groups < 1 || s->outputs % s->groups || (int64_t)s->inputs * s->groups > most)
        return msq_fail(MSQ_INVALID, "%d outputs and %d groups of %d inputs do not make a layer", s->outputs, s->groups,
                        s->inputs);
    for (int i = 0; i < 2; i++) {
        if (s->kernel[i] < 1 || s->kernel[i] > 1024 || s->stride[i] < 1 || s->dilation[i] < 1 || s->stride[i] > 1024 ||
            s->dilation[i] > 1024)
            return msq_fail(MSQ_INVALID, "a kernel of %d × %d, stride %d × %d, dilation %d × %d", s->kernel[0],
                            s->kernel[1], s->stride[0], s->stride[1], s->dilation[0], s->dilation[1]);
    }
    for (int i = 0; i < 4; i++)
        if (s->padding[i] < 0 || s->padding[i] > 4096) return msq_fail(MSQ_INVALID, "a padding of %d", s->padding[i]);
    const int64_t k = (int64_t)s->inputs * s->kernel[0] * s->kernel[1];
    /* |x − zero| ≤ 255 and |w| ≤ 128: beyond this, int32 could overflow. */
    if (k > INT32_MAX / (255 * 128)) return msq_fail(MSQ_INVALID, "%lld inputs an output overflow int32", (long long)k);
    if (s->bits) {
        const size_t wanted = msq_packed_bytes(s->outputs, s->inputs, s->kernel[0] * s->kernel[1], s->bits,
                                               s->depthwise);
        if (s->packed == NULL || s->packed_bytes != wanted)
            return msq_fail(MSQ_INVALID, "packed weights of %zu bytes; %d × %lld at %d bits take %zu",
                            s->packed ? s->packed_bytes : 0, s->outputs, (long long)k, s->bits, wanted);
        if ((uintptr_t)s->packed % ATOM)
            return msq_fail(MSQ_ALIGNMENT, "packed weights lie %d bytes behind a multiple of 64",
                            (int)((uintptr_t)s->packed % ATOM));
    }
    if (s->weight_scale == NULL || s->bias == NULL) return msq_fail(MSQ_INVALID, "no scales or no bias");
    if (!(s->input_scale > 0) || !(s->output_scale > 0))
        return msq_fail(MSQ_INVALID, "scales of %g and %g; both must be above 0", (double)s->input_scale,
                        (double)s->output_scale);
    if (!msq_is_code(s->input_zero) || !msq_is_code(s->output_zero) || s->low < -128 || s->high > 127 ||
        s->low > s->high)
        return msq_fail(MSQ_INVALID, "zero points %d and %d, clamp %d to %d; all must lie in int8", s->input_zero,
                        s->output_zero, s->low, s->high);
    return MSQ_OK;
}

/* Subtract Σw · (input_zero + flip) from every output's bias, panel by panel. */
static msq_status fold_zero_point(msq_layer *layer) {
    const msq_layer_spec *s = &layer->spec;
    if (s->bits == 0) return MSQ_OK;
    const bool depthwise = layer->spec.depthwise;
    const int64_t k = (int64_t)s->inputs * layer->taps;
    const int32_t zero = s->input_zero + layer->tier->flip;
    const int32_t groups = depthwise ? msq_ceil(k * s->outputs, ATOM) : layer->row_groups;
    int8_t *weights = aligned_alloc(ATOM, (size_t)groups * ATOM);
    if (weights == NULL) return msq_fail(MSQ_MEMORY, "no memory for a panel of weights");
    if (depthwise) {
        layer->tier->unpack(&layer->grid, s->packed, 0, groups, weights, ATOM);
        for (int64_t i = 0; i < k * s->outputs; i++) {
            int32_t *bias = &layer->bias[i % s->outputs];
            *bias = (int32_t)((uint32_t)*bias - (uint32_t)(zero * weights[i]));
        }
    } else {
        for (int32_t n = 0; n < s->outputs; n++) {
            if (n % PANEL == 0)
                layer->tier->unpack(&layer->grid, s->packed, (size_t)(n / PANEL) * (size_t)groups, groups, weights,
                                    ATOM);
            int32_t sum = 0;
            for (int64_t i = 0; i < k; i++) sum += weights[i / GROUP * ATOM + n % PANEL * GROUP + i % GROUP];
            layer->bias[n] = (int32_t)((uint32_t)layer->bias[n] - (uint32_t)zero * (uint32_t)sum);
        }
    }
    free(weights);
    return MSQ_OK;
}

msq_status msq_layer_create(const msq_layer_spec *spec, msq_layer **out) {
    *out = NULL;
    const msq_tier *tier = msq_current_tier();
    if (tier == NULL) return MSQ_UNSUPPORTED;
    msq_status status = checked(spec);
    if (status) return status;
    msq_layer *layer = aligned_alloc(_Alignof(msq_layer), sizeof *layer);
    if (layer == NULL) return msq_fail(MSQ_MEMORY, "no memory for a layer");
    memset(layer, 0, sizeof *layer);
    layer->spec = *spec;
    layer->tier = tier;
    layer->grid.bits = spec->bits;
    layer->grid.a = spec->a;
    layer->grid.z = spec->z;
    if (spec->bits) tier->prepare(&layer->grid);
    layer->taps = spec->kernel[0] * spec->kernel[1];
    layer->row_groups = msq_ceil((int64_t)spec->inputs * layer->taps, GROUP);
    /* A panel set of a group may begin within a panel: room for one more behind the last. */
    const size_t padded = msq_rounded((size_t)spec->outputs, PANEL) + TILE_OUTPUTS;
    layer->bias = calloc(padded, sizeof *layer->bias);
    layer->multiplier = calloc(padded, sizeof *layer->multiplier);
    if (layer->bias && layer->multiplier) {
        for (int32_t n = 0; n < spec->outputs && status == MSQ_OK; n++) {
            layer->bias[n] = spec->bias[n];
            layer->multiplier[n] = spec->input_scale * spec->weight_scale[n] / spec->output_scale;
            if (!isfinite(layer->multiplier[n]))
                status = msq_fail(MSQ_INVALID, "the scale of output %d is %g", n, (double)spec->weight_scale[n]);
        }
        if (status == MSQ_OK) status = fold_zero_point(layer);
    } else {
        status = msq_fail(MSQ_MEMORY, "no memory for a layer of %d outputs", spec->outputs);
    }
    layer->spec.weight_scale = NULL;
    layer->spec.bias = NULL;
    if (status) {
        msq_layer_destroy(layer);
        return status;
    }
    *out = layer;
    return MSQ_OK;
}

void msq_layer_destroy(msq_layer *layer) {
    if (layer == NULL) return;
    free(layer->bias);
    free(layer->multiplier);
    free(layer);
}

msq_status msq_layer_output(const msq_layer *layer, int32_t height, int32_t width, int32_t output[2]) {
    const msq_layer_spec *s = &layer->spec;
    const int32_t size[2] = {height, width};
    for (int i = 0; i < 2; i++) {
        const int64_t padded = (int64_t)size[i] + s->padding[i] + s->padding[i + 2];
        const int64_t room = padded - ((int64_t)(s->kernel[i] - 1) * s->dilation[i] + 1);
        if (size[i] < 1 || size[i] > 1 << 20 || room < 0)
            return msq_fail(MSQ_INVALID, "a kernel of %d × %d does not fit into %d × %d", s->kernel[0], s->kernel[1],
                            height, width);
        output[i] = (int32_t)(room / s->stride[i]) + 1;
    }
    return MSQ_OK;
}
