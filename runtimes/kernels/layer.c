/* A layer: what its caller says is checked, its constants are made, and its work is cut into tiles. */
#include <stdlib.h>
#include <string.h>

#include "msq_kernels.h"
#include "threads.h"
#include "tier.h"

enum {
    FUSED_ROWS = 6,      /* fewer rows than this are multiplied by weights unpacked in registers */
    CHUNK_ROWS = 384,    /* rows whose sums are kept while a panel set's weights are unpacked part by part */
    FAR_BYTES = 1 << 20, /* packed weights larger than this are fetched into the second cache ahead of their use */
    PART_BYTES = 24576,  /* of unpacked weights: they stay in the first cache while all rows pass */
    MOST_RUNS = 64,
    COLUMNS = 16, /* pixels of a depthwise layer whose sums are kept before they are requantized together */
    TILE_OUTPUTS = MAX_PANELS * PANEL,
};

struct msq_layer {
    msq_layer_spec spec;
    const msq_tier *tier;
    msq_grid grid;
    int32_t taps;          /* kernel height · width */
    int32_t row_groups;    /* groups of four inputs of one output */
    int32_t *bias;         /* by output, padded to whole panels */
    float *multiplier;
};

/* Where one call's rows lie, and what their products are written to. */
typedef struct {
    const msq_layer *layer;
    const msq_call *call;
    int32_t height, width; /* of y */
    int32_t images;        /* staged at once */
    int32_t image;         /* the first of them */
    int64_t rows;          /* pixels of y of the staged images */
    bool fused, gathered, staged;
    int32_t padded_height, padded_width, padded_channels;
    const uint8_t *source; /* staged images, or x */
    uint8_t *stage, *chunk, *scratch;
    const uint8_t **x; /* where the rows of the chunk begin */
    size_t thread_bytes;
    int64_t first_row;     /* of the chunk */
    int64_t chunk_rows, most_rows;
    int32_t group;         /* of channels, being computed */
    int32_t first_panel, panels, panel_sets, row_parts;
    int32_t run_count;
    msq_run runs[MOST_RUNS];
} work;

static size_t rounded(size_t size, size_t to) { return (size + to - 1) / to * to; }

static int32_t ceil_of(int64_t size, int32_t by) { return (int32_t)((size + by - 1) / by); }

size_t msq_packed_bytes(int32_t outputs, int32_t inputs, int32_t taps, int32_t bits, int32_t depthwise) {
    const size_t n = (size_t)outputs, k = (size_t)inputs * (size_t)taps;
    const size_t codes = depthwise ? rounded(n * k, ATOM) : rounded(n, PANEL) * rounded(k, GROUP);
    return rounded(codes, GROUPS * ATOM) / (GROUPS * ATOM) * (size_t)bits * ATOM;
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
    if (s->groups < 1 || s->outputs % s->groups)
        return msq_fail(MSQ_INVALID, "%d outputs do not divide into %d groups", s->outputs, s->groups);
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
    if (s->input_zero < -128 || s->input_zero > 127 || s->output_zero < -128 || s->output_zero > 127 ||
        s->low < -128 || s->high > 127 || s->low > s->high)
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
    const int32_t groups = depthwise ? ceil_of(k * s->outputs, ATOM) : layer->row_groups;
    int8_t *weights = aligned_alloc(ATOM, (size_t)groups * ATOM);
    if (weights == NULL) return msq_fail(MSQ_MEMORY, "no memory for a panel of weights");
    if (depthwise) {
        layer->tier->unpack(&layer->grid, s->packed, 0, groups, weights, ATOM);
        for (int64_t i = 0; i < k * s->outputs; i++) layer->bias[i % s->outputs] -= zero * weights[i];
    } else {
        for (int32_t n = 0; n < s->outputs; n++) {
            if (n % PANEL == 0)
                layer->tier->unpack(&layer->grid, s->packed, (size_t)(n / PANEL) * (size_t)groups, groups, weights, ATOM);
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
    layer->row_groups = ceil_of((int64_t)spec->inputs * layer->taps, GROUP);
    /* A panel set of a group may begin within a panel: room for one more behind the last. */
    const size_t padded = rounded((size_t)spec->outputs, PANEL) + TILE_OUTPUTS;
    layer->bias = calloc(padded, sizeof *layer->bias);
    layer->multiplier = calloc(padded, sizeof *layer->multiplier);
    if (layer->bias && layer->multiplier) {
        for (int32_t n = 0; n < spec->outputs; n++) {
            layer->bias[n] = spec->bias[n];
            layer->multiplier[n] = spec->input_scale * spec->weight_scale[n] / spec->output_scale;
        }
        status = fold_zero_point(layer);
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

static bool is_pointwise(const msq_layer_spec *s) {
    const int32_t *p = s->padding;
    return s->kernel[0] * s->kernel[1] == 1 && s->stride[0] * s->stride[1] == 1 && !(p[0] | p[1] | p[2] | p[3]);
}

/* Whether the pixels of a line of taps follow one another. */
static bool is_joined(const msq_layer_spec *s) { return s->dilation[1] == 1 && s->groups == 1; }

/* A gathered row: zeros, the inputs of whole groups, zeros, for a panel may begin and end within a block. */
static size_t gathered_bytes(const msq_layer *layer) {
    return 2 * BLOCK + rounded((size_t)layer->row_groups * GROUP, BLOCK);
}

static uint8_t *gathered(const work *w, int64_t row) {
    return w->chunk + (size_t)row * gathered_bytes(w->layer) + BLOCK;
}

static msq_window window_of(const work *w) {
    const msq_layer_spec *s = &w->layer->spec;
    return (msq_window){
        .height = s->kernel[0],
        .width = s->kernel[1],
        .stride = s->stride[1],
        .dilation = s->dilation[1],
        .down = (ptrdiff_t)s->dilation[0] * w->padded_width * w->padded_channels,
        .channels = w->padded_channels,
    };
}

/* Decide how a call is done, and lay out its workspace; return the bytes of it. */
static msq_status plan(work *w, const msq_layer *layer, const msq_call *call, const msq_threads *threads,
                       size_t *bytes) {
    const msq_layer_spec *s = &layer->spec;
    int32_t out[2];
    if (call->batch < 1 || call->batch > 1 << 20)
        return msq_fail(MSQ_INVALID, "a batch of %d images", call->batch);
    const msq_status status = msq_layer_output(layer, call->height, call->width, out);
    if (status) return status;
    *w = (work){.layer = layer, .call = call, .height = out[0], .width = out[1]};
    const int32_t channels = s->inputs * s->groups;
    const bool depthwise = layer->spec.depthwise;
    const bool padded = s->padding[0] | s->padding[1] | s->padding[2] | s->padding[3];
    const int64_t pixels = (int64_t)w->height * w->width;
    const int64_t all = pixels * call->batch;

    /* Small maps are taken several images at a time, and pointwise layers do not know images. */
    w->images = is_pointwise(s) || pixels >= CHUNK_ROWS ? 1 : (int32_t)(CHUNK_ROWS / pixels);
    if (w->images > call->batch) w->images = call->batch;
    w->rows = is_pointwise(s) ? all : pixels * w->images;
    w->gathered = !depthwise && (s->inputs % GROUP || layer->taps > MOST_RUNS);
    w->fused = !depthwise && w->rows < FUSED_ROWS;
    if (w->fused) w->gathered = true;
    /* Gathered rows of a pointwise layer come from x at once; others from the staged images, behind which there is room
     * to read on. Pixels of a depthwise layer are whole panels of channels. */
    w->staged = depthwise || padded || (w->gathered ? !is_pointwise(s) : layer->tier->flip != 0);
    w->padded_channels = depthwise ? (int32_t)rounded((size_t)channels, PANEL) : channels;
    w->padded_height = call->height + s->padding[0] + s->padding[2];
    w->padded_width = call->width + s->padding[1] + s->padding[3];

    size_t at = 0;
    if (w->staged) {
        const size_t image = (size_t)w->padded_height * (size_t)w->padded_width * (size_t)w->padded_channels;
        at += rounded(image * (size_t)(is_pointwise(s) ? call->batch : w->images), ATOM);
    }
    w->chunk = (uint8_t *)at; /* offsets now, pointers once the workspace is known */
    w->most_rows = w->chunk_rows = w->rows < CHUNK_ROWS ? w->rows : CHUNK_ROWS;
    if (w->gathered) at += rounded((size_t)w->chunk_rows * gathered_bytes(layer), ATOM);
    w->x = (const uint8_t **)at;
    if (!depthwise) at += rounded((size_t)w->chunk_rows * sizeof *w->x, ATOM);
    w->scratch = (uint8_t *)at;
    if (depthwise) {
        const msq_window window = window_of(w);
        const size_t wide = (size_t)w->padded_channels;
        /* The weights as they are unpacked, with what is read beyond their end, and the sums share their room. */
        const size_t flat = rounded((size_t)layer->taps * (size_t)s->outputs, ATOM) + ATOM;
        const size_t sums = COLUMNS * wide * sizeof(int32_t) + 2 * wide;
        w->thread_bytes = rounded(msq_window_weights(&window), ATOM) + rounded(flat > sums ? flat : sums, ATOM);
    } else {
        const size_t sums = (size_t)w->chunk_rows * TILE_OUTPUTS * sizeof(int32_t);
        w->thread_bytes = (w->fused ? 0 : PART_BYTES) + sums + 2 * TILE_OUTPUTS;
    }
    at += w->thread_bytes * (size_t)msq_thread_count(threads);
    *bytes = at;
    return MSQ_OK;
}

msq_status msq_layer_workspace(const msq_layer *layer, int32_t batch, int32_t height, int32_t width,
                               const msq_threads *threads, size_t *bytes) {
    work w;
    const msq_call call = {.batch = batch, .height = height, .width = width};
    return plan(&w, layer, &call, threads, bytes);
}

/* Part: one row of a padded image, over all staged images. */
static void stage_row(void *context, int32_t part, int32_t thread) {
    (void)thread;
    work *w = context;
    const msq_layer_spec *s = &w->layer->spec;
    const uint8_t flip = w->layer->tier->flip;
    const uint8_t zero = (uint8_t)(s->input_zero ^ flip);
    const int32_t image = part / w->padded_height, y = part % w->padded_height - s->padding[0];
    const size_t channels = (size_t)s->inputs * (size_t)s->groups, wide = (size_t)w->padded_channels;
    uint8_t *to = w->stage + (size_t)part * (size_t)w->padded_width * wide;
    if (y < 0 || y >= w->call->height) {
        memset(to, zero, (size_t)w->padded_width * wide);
        return;
    }
    const uint8_t *from = (const uint8_t *)w->call->x +
                          ((size_t)(w->image + image) * (size_t)w->call->height + (size_t)y) *
                              (size_t)w->call->width * channels;
    memset(to, zero, (size_t)s->padding[1] * wide);
    to += (size_t)s->padding[1] * wide;
    if (wide == channels) {
        const size_t size = (size_t)w->call->width * channels;
        for (size_t i = 0; i < size; i++) to[i] = from[i] ^ flip;
        to += size;
    } else {
        for (int32_t x = 0; x < w->call->width; x++, from += channels, to += wide) {
            for (size_t i = 0; i < channels; i++) to[i] = from[i] ^ flip;
            memset(to + channels, 0, wide - channels);
        }
    }
    memset(to, zero, (size_t)s->padding[3] * wide);
}

/* Where the receptive field of a pixel of y begins in the source. */
static const uint8_t *field(const work *w, int64_t image, int64_t y, int64_t x) {
    const msq_layer_spec *s = &w->layer->spec;
    const int64_t pixel = (image * w->padded_height + y * s->stride[0]) * w->padded_width + x * s->stride[1];
    return w->source + (size_t)pixel * (size_t)w->padded_channels + (size_t)w->group * (size_t)s->inputs;
}

/* Where those of consecutive rows (pixels of y, image by image) begin. */
static void fields(const work *w, int64_t row, int32_t count, const uint8_t **x) {
    const msq_layer_spec *s = &w->layer->spec;
    const int64_t line = row / w->width;
    int64_t image = line / w->height, up = line % w->height, along = row % w->width;
    while (count > 0) {
        const uint8_t *from = field(w, image, up, along);
        const size_t step = (size_t)s->stride[1] * (size_t)w->padded_channels;
        for (; along < w->width && count > 0; along++, count--, from += step) *x++ = from;
        along = 0;
        if (++up < w->height) continue;
        up = 0;
        image++;
    }
}

/* Part: one row of the chunk. Its inputs, which may lie apart, are brought together and filled up to whole blocks. */
static void gather_row(void *context, int32_t part, int32_t thread) {
    (void)thread;
    work *w = context;
    const msq_layer_spec *s = &w->layer->spec;
    const size_t channels = (size_t)w->padded_channels, inputs = (size_t)s->inputs;
    uint8_t *to = gathered(w, part), *const end = to - BLOCK + gathered_bytes(w->layer);
    memset(to - BLOCK, 0, BLOCK);
    const uint8_t *from;
    fields(w, w->first_row + part, 1, &from);
    if (!w->staged) { /* a pointwise layer's: as it is */
        const uint8_t flip = w->layer->tier->flip;
        for (size_t i = 0; i < inputs; i++) to[i] = from[i] ^ flip;
        to += inputs;
    }
    const bool joined = is_joined(s);
    const int32_t pieces = joined ? 1 : s->kernel[1];
    const size_t piece = joined ? (size_t)s->kernel[1] * inputs : inputs;
    for (int32_t y = 0; w->staged && y < s->kernel[0]; y++) {
        const uint8_t *line = from + (size_t)(y * s->dilation[0]) * (size_t)w->padded_width * channels;
        for (int32_t x = 0; x < pieces; x++, line += (size_t)s->dilation[1] * channels, to += piece)
            /* By sixteen: what is too much is overwritten, and there is room behind both. */
            for (size_t i = 0; i < piece; i += 16) memcpy(to + i, line + i, 16);
    }
    memset(to, 0, (size_t)(end - to));
}

static msq_epilogue epilogue_of(const work *w, int32_t output) {
    const msq_layer *layer = w->layer;
    const msq_layer_spec *s = &layer->spec;
    msq_epilogue e = {
        .bias = layer->bias + output,
        .multiplier = layer->multiplier + output,
        .low = (float)(s->low - s->output_zero),
        .high = (float)(s->high - s->output_zero),
        .zero = s->output_zero,
    };
    const msq_residual *r = w->call->residual;
    if (r) {
        e.ratio = r->ratio;
        e.residual_ratio = r->residual_ratio;
        e.residual_zero = r->zero;
        e.sum_zero = r->sum_zero;
        e.sum_low = r->low;
        e.sum_high = r->high;
    }
    return e;
}

/* Write `count` outputs of rows from their sums, of which each row has `step`. codes: room for count, rounded up to
 * whole panels, twice. */
static void finish(const work *w, msq_epilogue *e, const int32_t *sums, int32_t step, int64_t row, int32_t rows,
                   int32_t output, int32_t count, int8_t *codes) {
    const size_t outputs = (size_t)w->layer->spec.outputs;
    const size_t at = ((size_t)w->image * (size_t)w->height * (size_t)w->width + (size_t)row) * outputs + (size_t)output;
    const int32_t padded = (int32_t)rounded((size_t)count, PANEL);
    const msq_residual *residual = w->call->residual;
    if (w->call->y && padded == count) {
        e->values = residual ? residual->values + at : NULL;
        w->layer->tier->requantize(sums, (size_t)step, rows, count, e, w->call->y + at, outputs);
        return;
    }
    for (int32_t r = 0; r < rows; r++, sums += step) {
        const size_t to = at + (size_t)r * outputs;
        if (w->call->sums) {
            for (int32_t i = 0; i < count; i++)
                w->call->sums[to + (size_t)i] = (int32_t)((uint32_t)sums[i] + (uint32_t)e->bias[i]);
            continue;
        }
        e->values = NULL;
        if (residual) {
            memcpy(codes + padded, residual->values + to, (size_t)count);
            e->values = codes + padded;
        }
        w->layer->tier->requantize(sums, 0, 1, padded, e, codes, 0);
        memcpy(w->call->y + to, codes, (size_t)count);
    }
}

/* The outputs of the group being computed that lie in panels first … first + panels − 1. */
typedef struct {
    int32_t panel, panels, output, count, skip;
} outputs_of;

static outputs_of outputs_in(const work *w, int32_t first, int32_t panels) {
    const int32_t size = w->layer->spec.outputs / w->layer->spec.groups, begin = w->group * size;
    outputs_of o = {.panel = first, .panels = panels, .output = first * PANEL, .count = panels * PANEL};
    if (o.output < begin) {
        o.skip = begin - o.output;
        o.output = begin;
        o.count -= o.skip;
    }
    if (o.output + o.count > begin + size) o.count = begin + size - o.output;
    return o;
}

/* The next part of a row's runs, of at most `most` groups; run and done say where the last one ended. */
static int32_t next_runs(const work *w, int32_t most, int32_t *run, int32_t *done, msq_run *runs, int32_t *groups) {
    int32_t count = 0;
    for (*groups = 0; *run < w->run_count && *groups < most; count++) {
        const msq_run *whole = &w->runs[*run];
        const int32_t left = whole->groups - *done, taken = left < most - *groups ? left : most - *groups;
        runs[count] = (msq_run){whole->offset + (ptrdiff_t)*done * GROUP, taken};
        *groups += taken;
        *done += taken;
        if (*done < whole->groups) continue;
        *done = 0;
        *run += 1;
    }
    return count;
}

/* Packed weights that are asked for while others are multiplied: `lines` of 64 bytes of each of some panels. */
typedef struct {
    const uint8_t *at;
    size_t lines, left, step;
    int32_t panels;
} ahead;

static ahead ahead_of(const msq_layer *layer, size_t first, int32_t groups, int32_t panels) {
    const size_t block = (size_t)layer->grid.bits * ATOM, begin = first / GROUPS * block;
    ahead a = {.lines = (size_t)ceil_of(groups, GROUPS) * (size_t)layer->grid.bits};
    a.left = a.lines;
    a.step = (size_t)layer->row_groups / GROUPS * block;
    a.at = layer->spec.packed + begin;
    const bool is_far = layer->spec.packed_bytes > FAR_BYTES;
    if (is_far && begin + (size_t)(panels - 1) * a.step + a.lines * ATOM <= layer->spec.packed_bytes) a.panels = panels;
    return a;
}

static void fetch(ahead *a, size_t lines) {
    while (lines > 0 && a->panels > 0) {
        const size_t now = lines < a->left ? lines : a->left;
        for (size_t i = 0; i < now; i++) __builtin_prefetch(a->at + i * ATOM, 0, 2);
        a->at += now * ATOM;
        lines -= now;
        a->left -= now;
        if (a->left) return;
        a->panels--;
        a->at += a->step - a->lines * ATOM;
        a->left = a->lines;
    }
}

/* Part: a set of panels over a share of the rows of the chunk. */
static void multiply(void *context, int32_t part, int32_t thread) {
    work *w = context;
    const msq_layer *layer = w->layer;
    const msq_tier *tier = layer->tier;
    const int32_t set = part / w->row_parts, share = part % w->row_parts;
    const int32_t panels = w->panels - set * tier->panels < tier->panels ? w->panels - set * tier->panels : tier->panels;
    const outputs_of o = outputs_in(w, w->first_panel + set * tier->panels, panels);

    uint8_t *own = w->scratch + (size_t)thread * w->thread_bytes;
    int8_t *weights = (int8_t *)own;
    int32_t *sums = (int32_t *)(own + PART_BYTES);
    int8_t *codes = (int8_t *)(sums + (size_t)w->most_rows * TILE_OUTPUTS);

    const int32_t per_share = ceil_of(w->chunk_rows, w->row_parts);
    const int32_t begin = share * per_share;
    const int32_t end = begin + per_share < w->chunk_rows ? begin + per_share : (int32_t)w->chunk_rows;
    const int32_t most = tier->rows[panels - 1], most_groups = PART_BYTES / (ATOM * panels);
    msq_epilogue e = epilogue_of(w, o.output);
    const size_t first = (size_t)o.panel * (size_t)layer->row_groups;
    msq_run runs[MOST_RUNS];
    for (int32_t run = 0, done = 0, before = 0, groups; run < w->run_count; before += groups) {
        const int32_t count = next_runs(w, most_groups, &run, &done, runs, &groups);
        for (int32_t p = 0; p < panels; p++)
            tier->unpack(&layer->grid, layer->spec.packed,
                         first + (size_t)p * (size_t)layer->row_groups + (size_t)before, groups, weights + p * ATOM,
                         (size_t)panels * ATOM);
        const bool last = run == w->run_count;
        const size_t next = last ? first + (size_t)panels * (size_t)layer->row_groups : first + (size_t)(before + groups);
        const int32_t left = last ? layer->row_groups : layer->row_groups - before - groups;
        ahead a = ahead_of(layer, next, left < most_groups ? left : most_groups, panels);
        const size_t lines = (size_t)ceil_of((int64_t)a.lines * panels, ceil_of(end - begin, most));
        for (int32_t row = begin, rows; row < end; row += rows) {
            rows = end - row < most ? end - row : most;
            fetch(&a, lines);
            int32_t *const own_sums = sums + (row - begin) * panels * PANEL;
            tier->tile(&layer->grid, rows, panels, w->x + row, runs, count, weights, before > 0, own_sums);
            if (last)
                finish(w, &e, own_sums + o.skip, panels * PANEL, w->first_row + row, rows, o.output, o.count, codes);
        }
    }
}

/* Part: one panel over all rows, of which there are few. */
static void multiply_fused(void *context, int32_t part, int32_t thread) {
    work *w = context;
    const msq_layer *layer = w->layer;
    const outputs_of o = outputs_in(w, w->first_panel + part, 1);
    int32_t *sums = (int32_t *)(w->scratch + (size_t)thread * w->thread_bytes);
    int8_t *codes = (int8_t *)(sums + (size_t)w->most_rows * TILE_OUTPUTS);
    const size_t first = (size_t)o.panel * (size_t)layer->row_groups, skip = first % GROUPS;
    const int32_t blocks = ceil_of((int64_t)skip + layer->row_groups, GROUPS);
    const uint8_t *packed = layer->spec.packed + first / GROUPS * (size_t)layer->grid.bits * ATOM;
    msq_epilogue e = epilogue_of(w, o.output);
    for (int64_t row = 0; row < w->chunk_rows; row += 4) {
        const int32_t rows = w->chunk_rows - row < 4 ? (int32_t)(w->chunk_rows - row) : 4;
        const uint8_t *x[4];
        for (int32_t r = 0; r < rows; r++) x[r] = w->x[row + r] - skip * GROUP;
        layer->tier->fused(&layer->grid, rows, x, blocks, packed, sums);
        finish(w, &e, sums + o.skip, PANEL, w->first_row + row, rows, o.output, o.count, codes);
    }
}

/* Part: a share of the rows of y of a depthwise layer, over all staged images. */
static void slide(void *context, int32_t part, int32_t thread) {
    work *w = context;
    const msq_layer *layer = w->layer;
    const msq_layer_spec *s = &layer->spec;
    const msq_window window = window_of(w);
    const size_t channels = (size_t)w->padded_channels;
    uint8_t *own = w->scratch + (size_t)thread * w->thread_bytes;
    int8_t *weights = (int8_t *)own;
    own += rounded(msq_window_weights(&window), ATOM);
    int8_t *flat = (int8_t *)own;
    int32_t *sums = (int32_t *)own; /* once the weights are arranged */
    int8_t *codes = (int8_t *)(sums + COLUMNS * channels);

    layer->tier->unpack(&layer->grid, s->packed, 0, ceil_of((int64_t)layer->taps * s->outputs, ATOM), flat, ATOM);
    layer->tier->arrange(&window, (uint8_t *)flat, (size_t)s->outputs, weights);

    const int32_t lines = w->height * w->images, per_part = ceil_of(lines, w->row_parts);
    const int32_t end = (part + 1) * per_part < lines ? (part + 1) * per_part : lines;
    msq_epilogue e = epilogue_of(w, 0);
    for (int32_t line = part * per_part; line < end; line++) {
        for (int32_t column = 0, columns; column < w->width; column += columns) {
            columns = w->width - column < COLUMNS ? w->width - column : COLUMNS;
            const uint8_t *from = field(w, line / w->height, line % w->height, column);
            layer->tier->depthwise(&layer->grid, &window, columns, from, weights, sums);
            finish(w, &e, sums, (int32_t)channels, (int64_t)line * w->width + column, columns, 0, s->outputs, codes);
        }
    }
}

/* Part: one row of y of a layer without bits. */
static void write_bias(void *context, int32_t part, int32_t thread) {
    work *w = context;
    int32_t *sums = (int32_t *)(w->scratch + (size_t)thread * w->thread_bytes);
    int8_t *codes = (int8_t *)(sums + TILE_OUTPUTS);
    memset(sums, 0, TILE_OUTPUTS * sizeof *sums);
    for (int32_t n = 0; n < w->layer->spec.outputs; n += TILE_OUTPUTS) {
        const int32_t left = w->layer->spec.outputs - n;
        msq_epilogue e = epilogue_of(w, n);
        finish(w, &e, sums, 0, part, 1, n, left < TILE_OUTPUTS ? left : TILE_OUTPUTS, codes);
    }
}

/* Say where the four-input groups of a row lie, from its first byte. */
static void lay_runs(work *w) {
    const msq_layer_spec *s = &w->layer->spec;
    w->run_count = 0;
    if (w->gathered) {
        w->runs[w->run_count++] = (msq_run){0, w->layer->row_groups};
        return;
    }
    const ptrdiff_t pixel = w->padded_channels, line = (ptrdiff_t)w->padded_width * pixel;
    const bool joined = is_joined(s);
    for (int32_t y = 0; y < s->kernel[0]; y++) {
        const ptrdiff_t at = y * s->dilation[0] * line;
        if (joined) {
            w->runs[w->run_count++] = (msq_run){at, s->kernel[1] * s->inputs / GROUP};
            continue;
        }
        for (int32_t x = 0; x < s->kernel[1]; x++)
            w->runs[w->run_count++] = (msq_run){at + x * s->dilation[1] * pixel, s->inputs / GROUP};
    }
}

static void multiply_rows(work *w, msq_threads *threads) {
    const msq_layer *layer = w->layer;
    const int32_t size = layer->spec.outputs / layer->spec.groups, count = msq_thread_count(threads);
    lay_runs(w);
    const int64_t chunk = w->chunk_rows;
    for (w->group = 0; w->group < layer->spec.groups; w->group++) {
        w->first_panel = w->group * size / PANEL;
        w->panels = ceil_of((int64_t)(w->group + 1) * size, PANEL) - w->first_panel;
        w->panel_sets = ceil_of(w->panels, layer->tier->panels);
        for (w->first_row = 0; w->first_row < w->rows; w->first_row += chunk) {
            w->chunk_rows = w->rows - w->first_row < chunk ? w->rows - w->first_row : chunk;
            if (w->gathered) {
                msq_share(threads, (int32_t)w->chunk_rows, gather_row, w);
                for (int64_t row = 0; row < w->chunk_rows; row++) w->x[row] = gathered(w, row);
            } else {
                fields(w, w->first_row, (int32_t)w->chunk_rows, w->x);
            }
            /* Rows are cut too where there are not enough panels for all threads to end together. */
            w->row_parts = count > 1 && w->panel_sets % count ? count : 1;
            if (w->fused)
                msq_share(threads, w->panels, multiply_fused, w);
            else
                msq_share(threads, w->panel_sets * w->row_parts, multiply, w);
        }
    }
    w->chunk_rows = chunk;
}

msq_status msq_layer_run(const msq_layer *layer, const msq_call *call, msq_threads *threads) {
    work w;
    size_t bytes;
    const msq_status status = plan(&w, layer, call, threads, &bytes);
    if (status) return status;
    if (call->x == NULL || (call->y == NULL) == (call->sums == NULL))
        return msq_fail(MSQ_INVALID, "an input and either y or sums are wanted");
    if (call->workspace == NULL || call->workspace_bytes < bytes)
        return msq_fail(MSQ_INVALID, "a workspace of %zu bytes; %zu are needed",
                        call->workspace ? call->workspace_bytes : 0, bytes);
    if ((uintptr_t)call->workspace % ATOM)
        return msq_fail(MSQ_ALIGNMENT, "a workspace %d bytes behind a multiple of 64",
                        (int)((uintptr_t)call->workspace % ATOM));
    uint8_t *base = call->workspace;
    w.stage = base;
    w.chunk = base + (size_t)w.chunk;
    w.x = (const uint8_t **)(base + (size_t)w.x);
    w.scratch = base + (size_t)w.scratch;
    if (layer->grid.bits == 0) {
        const int64_t rows = (int64_t)w.height * w.width * call->batch;
        msq_share(threads, (int32_t)rows, write_bias, &w);
        return MSQ_OK;
    }
    const bool pointwise = is_pointwise(&layer->spec);
    const int32_t step = pointwise ? call->batch : w.images;
    const int64_t pixels = (int64_t)w.height * w.width;
    for (w.image = 0; w.image < call->batch; w.image += step) {
        w.images = call->batch - w.image < step ? call->batch - w.image : step;
        w.rows = pixels * w.images;
        w.chunk_rows = w.most_rows;
        w.source = w.stage;
        if (w.staged)
            msq_share(threads, w.padded_height * w.images, stage_row, &w);
        else
            w.source = (const uint8_t *)call->x +
                       (size_t)w.image * (size_t)call->height * (size_t)call->width * (size_t)w.padded_channels;
        if (layer->spec.depthwise) {
            w.row_parts = msq_thread_count(threads);
            msq_share(threads, w.row_parts, slide, &w);
        } else {
            multiply_rows(&w, threads);
        }
    }
    return MSQ_OK;
}
