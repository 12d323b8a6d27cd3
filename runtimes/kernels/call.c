/* One call of a layer: it is decided how, its input is staged, its parts are shared out, and sums become codes. */
#include <string.h>

#include "layer.h"

enum {
    FUSED_ROWS = 6,      /* fewer rows than this are multiplied by weights unpacked in registers */
    STAGED_ROWS = 384,   /* of several images, if they are as small as this together */
    SERIAL_BYTES = 65536 /* staged by one thread: others take longer to wake */
};

bool msq_is_pointwise(const msq_layer_spec *s) {
    const int32_t *p = s->padding;
    return s->kernel[0] * s->kernel[1] == 1 && s->stride[0] * s->stride[1] == 1 && !(p[0] | p[1] | p[2] | p[3]);
}

/* Decide how a call is done, and lay out its workspace; return the bytes of it. */
static msq_status plan(msq_work *w, const msq_layer *layer, const msq_call *call, const msq_threads *threads,
                       size_t *bytes) {
    const msq_layer_spec *s = &layer->spec;
    int32_t out[2];
    if (call->batch < 1 || call->batch > 1 << 20)
        return msq_fail(MSQ_INVALID, "a batch of %d images", call->batch);
    const msq_status status = msq_layer_output(layer, call->height, call->width, out);
    if (status) return status;
    *w = (msq_work){.layer = layer, .call = call, .height = out[0], .width = out[1]};
    const int32_t channels = s->inputs * s->groups;
    const bool depthwise = s->depthwise, pointwise = msq_is_pointwise(s);
    const bool padded = s->padding[0] | s->padding[1] | s->padding[2] | s->padding[3];
    const int64_t pixels = (int64_t)w->height * w->width;
    if (pixels * call->batch > INT32_MAX)
        return msq_fail(MSQ_INVALID, "%d images of %d × %d are too many for one call", call->batch, w->height,
                        w->width);

    w->slid = !depthwise && msq_can_slide(layer, w->width);
    const bool is_product = !depthwise && !w->slid;
    /* Small maps are taken several images at a time; pointwise layers know no images, and what slides stages lines. */
    w->images = pointwise || !is_product ? call->batch : pixels >= STAGED_ROWS ? 1 : (int32_t)(STAGED_ROWS / pixels);
    if (w->images > call->batch) w->images = call->batch;
    w->rows = pixels * w->images;
    w->fused = is_product && w->rows < FUSED_ROWS;
    w->realigned = w->slid ? s->inputs % GROUP : is_product && !pointwise && !w->fused && s->inputs % GROUP &&
                                                     msq_can_realign(layer);
    w->gathered = is_product && !w->realigned && (w->fused || s->inputs % GROUP || layer->taps > MOST_RUNS);
    /* Single pixels are flipped chunk by chunk: they stay in the second cache, and of a map that is walked in strides
     * only those that are met are flipped. Short ones that lie apart would take too many steps. */
    const bool single = layer->taps == 1 && !padded, walked = s->stride[0] * s->stride[1] > 2 && s->inputs % 8 == 0;
    w->copied = single && is_product && !w->gathered && !w->realigned && layer->tier->flip &&
                (msq_is_one_piece(s) || s->inputs >= ATOM || walked);
    /* Gathered rows of single pixels come from x at once; others, and lines that end within a group, from the staged
     * images, behind which there is room to read on. Pixels of a depthwise layer are whole panels of channels. */
    w->staged = is_product && !w->copied &&
                (w->realigned || padded || (w->gathered ? !single : layer->tier->flip != 0));
    w->padded_channels = (int32_t)msq_rounded((size_t)channels, depthwise ? PANEL : w->slid ? GROUP : 1);
    w->padded_height = call->height + s->padding[0] + s->padding[2];
    w->padded_width = call->width + s->padding[1] + s->padding[3];

    const int32_t count = msq_thread_count(threads);
    msq_status planned = MSQ_OK;
    if (depthwise)
        msq_plan_depthwise(w, count);
    else if (w->slid)
        msq_plan_slide(w, count);
    else
        planned = msq_plan_product(w, count);
    if (planned) return planned;
    const size_t image = (size_t)w->padded_height * (size_t)w->padded_width * (size_t)w->padded_channels;
    const size_t staged = w->staged ? msq_rounded(image * (size_t)w->images, ATOM) : 0;
    w->stage = call->workspace;
    if (w->stage) w->scratch = w->stage + staged;
    *bytes = staged + w->thread_bytes * (size_t)count;
    return MSQ_OK;
}

msq_status msq_layer_workspace(const msq_layer *layer, int32_t batch, int32_t height, int32_t width,
                               const msq_threads *threads, size_t *bytes) {
    msq_work w;
    const msq_call call = {.batch = batch, .height = height, .width = width};
    return plan(&w, layer, &call, threads, bytes);
}

/* A pixel of up to four channels, flipped. Fewer have a part of the next one behind them, which is multiplied by 0. */
static inline void copy_four(const uint8_t *from, size_t size, uint32_t flip, uint8_t *to) {
    uint32_t four = 0;
    memcpy(&four, from, size);
    four ^= flip;
    memcpy(to, &four, sizeof four);
}

/* Copy a line of x, flipped. */
static void copy_line(const msq_work *w, const uint8_t *from, uint8_t *to) {
    const msq_tier *tier = w->layer->tier;
    const size_t channels = (size_t)w->layer->spec.inputs * (size_t)w->layer->spec.groups;
    const size_t wide = (size_t)w->padded_channels, width = (size_t)w->call->width;
    if (wide == channels) {
        tier->copy(from, width * channels, to);
        return;
    }
    if (w->slid) {
        const uint32_t flip = tier->flip * 0x01010101u;
        size_t x = 1; /* all but the last one can be read as four */
        for (; x + 4 <= width; x += 4)
            for (int i = 0; i < 4; i++, from += channels, to += GROUP) copy_four(from, GROUP, flip, to);
        for (; x < width; x++, from += channels, to += GROUP) copy_four(from, GROUP, flip, to);
        copy_four(from, channels, flip, to);
        return;
    }
    for (size_t x = 0; x < width; x++, from += channels, to += wide) {
        tier->copy(from, channels, to);
        memset(to + channels, 0, wide - channels);
    }
}

void msq_stage_lines(const msq_work *w, int32_t image, int32_t first, int32_t count, uint8_t *to) {
    const msq_layer_spec *s = &w->layer->spec;
    const int zero = (uint8_t)(s->input_zero ^ w->layer->tier->flip), height = w->call->height;
    const size_t width = (size_t)w->call->width, pixel = (size_t)w->padded_channels;
    const size_t line = (size_t)w->padded_width * pixel, channels = (size_t)s->inputs * (size_t)s->groups;
    const uint8_t *x = (const uint8_t *)w->call->x + (size_t)(w->image + image) * (size_t)height * width * channels;
    uint8_t *filled = to, *const end = to + (size_t)count * line;
    /* What lies between the pixels of two lines is filled at once. */
    for (int32_t i = 0; i < count; i++) {
        const int32_t y = first + i - s->padding[0];
        if (y < 0 || y >= height) continue;
        uint8_t *const at = to + (size_t)i * line + (size_t)s->padding[1] * pixel;
        memset(filled, zero, (size_t)(at - filled));
        copy_line(w, x + (size_t)y * width * channels, at);
        filled = at + width * pixel;
    }
    memset(filled, zero, (size_t)(end - filled));
}

/* Part: some lines of a padded image. */
static void stage_part(void *context, int32_t part, int32_t thread) {
    (void)thread;
    msq_work *w = context;
    const int32_t parts = msq_ceil(w->padded_height, w->staged_lines), first = part % parts * w->staged_lines;
    const int32_t left = w->padded_height - first, line = part / parts * w->padded_height + first;
    msq_stage_lines(w, part / parts, first, left < w->staged_lines ? left : w->staged_lines,
                    w->stage + (size_t)line * (size_t)w->padded_width * (size_t)w->padded_channels);
}

const uint8_t *msq_field(const msq_work *w, int64_t image, int64_t y, int64_t x) {
    const msq_layer_spec *s = &w->layer->spec;
    const int64_t pixel = (image * w->padded_height + y * s->stride[0]) * w->padded_width + x * s->stride[1];
    return w->source + (size_t)pixel * (size_t)w->padded_channels;
}

msq_epilogue msq_epilogue_of(const msq_work *w, int32_t output) {
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

void msq_finish(const msq_work *w, msq_epilogue *e, const int32_t *sums, int32_t step, int64_t row, int32_t rows,
                int32_t output, int32_t count) {
    const size_t outputs = (size_t)w->layer->spec.outputs;
    const size_t pixel = (size_t)w->image * (size_t)w->height * (size_t)w->width + (size_t)row;
    const size_t at = pixel * outputs + (size_t)output;
    if (w->call->y) {
        e->values = w->call->residual ? w->call->residual->values + at : NULL;
        w->layer->tier->requantize(sums, (size_t)step, rows, count, e, w->call->y + at, outputs);
        return;
    }
    int32_t *to = w->call->sums + at;
    for (; rows > 0; rows--, sums += step, to += outputs)
        for (int32_t i = 0; i < count; i++) to[i] = (int32_t)((uint32_t)sums[i] + (uint32_t)e->bias[i]);
}

/* Part: one row of y of a layer without bits. */
static void write_bias(void *context, int32_t part, int32_t thread) {
    msq_work *w = context;
    int32_t *sums = (int32_t *)(w->scratch + (size_t)thread * w->thread_bytes);
    memset(sums, 0, TILE_OUTPUTS * sizeof *sums);
    for (int32_t n = 0; n < w->layer->spec.outputs; n += TILE_OUTPUTS) {
        const int32_t left = w->layer->spec.outputs - n;
        msq_epilogue e = msq_epilogue_of(w, n);
        msq_finish(w, &e, sums, 0, part, 1, n, left < TILE_OUTPUTS ? left : TILE_OUTPUTS);
    }
}

msq_status msq_layer_run(const msq_layer *layer, const msq_call *call, msq_threads *threads) {
    msq_work w;
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
    const msq_residual *r = call->residual;
    if (r && !(r->ratio >= 0 && r->ratio <= MSQ_MOST_RATIO && r->residual_ratio >= 0 && r->residual_ratio <= MSQ_MOST_RATIO))
        return msq_fail(MSQ_INVALID, "a residual addition by ratios of %g and %g; they lie in 0..2^22",
                        (double)r->ratio, (double)r->residual_ratio);
    if (r && (r->values == NULL || !msq_is_code(r->zero) || !msq_is_code(r->sum_zero) || !msq_is_code(r->low) ||
              !msq_is_code(r->high)))
        return msq_fail(MSQ_INVALID, "a residual addition whose values, zero points or limits cannot be");
    const int64_t pixels = (int64_t)w.height * w.width;
    if (layer->grid.bits == 0) {
        msq_share(threads, (int32_t)(pixels * call->batch), write_bias, &w);
        return MSQ_OK;
    }
    const size_t image = (size_t)call->height * (size_t)call->width * (size_t)w.padded_channels;
    const int32_t step = w.images;
    for (w.image = 0; w.image < call->batch; w.image += step) {
        w.images = call->batch - w.image < step ? call->batch - w.image : step;
        w.rows = pixels * w.images;
        w.source = w.staged ? w.stage : (const uint8_t *)call->x + (size_t)w.image * image;
        const bool is_serial = image * (size_t)w.images <= SERIAL_BYTES || msq_thread_count(threads) == 1;
        w.staged_lines = is_serial ? w.padded_height : 1;
        if (w.staged)
            msq_share(is_serial ? NULL : threads, w.images * msq_ceil(w.padded_height, w.staged_lines), stage_part, &w);
        if (layer->spec.depthwise)
            msq_run_depthwise(&w, threads);
        else if (w.slid)
            msq_run_slide(&w, threads);
        else
            msq_run_product(&w, threads);
    }
    return MSQ_OK;
}
