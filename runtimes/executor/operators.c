/* Operations without weights, exactly as msq/nodes.py defines them; and the table of all. */
#include "operators.h"

#include <math.h>
#include <string.h>

msq_status msq_kernel_failed(const msq_node *node, msq_status status) {
    return msq_node_fail(node, status, "%s", msq_error());
}

static msq_status misshapen(const msq_node *node) {
    return msq_node_fail(node, MSQ_INVALID, "its tensors' shapes or dtypes do not fit it");
}

/* Whether a node makes a tensor of its input's shape, and these are their dtypes. */
static bool keeps_shape(const msq_graph *graph, const msq_node *node, msq_dtype from, msq_dtype to) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    return x->dtype == from && y->dtype == to && x->rank == y->rank &&
           memcmp(x->shape, y->shape, (size_t)x->rank * sizeof *x->shape) == 0;
}

/* What is worked out before any of it is written, in loops of which a compiler makes vectors. */
enum { PIECE = 64 };

/* Elements before and behind an axis. */
static size_t product(const msq_tensor *tensor, int32_t from, int32_t to) {
    size_t count = 1;
    for (int32_t i = from; i < to; i++) count *= (size_t)tensor->shape[i];
    return count;
}

/* clamp(rint(value) + zero); clamped first, which makes no difference between whole limits, so that it fits the trick
 * of rounding half to even by a number whose last place is 1. */
static inline int8_t code_of(float value, float low, float high, int32_t zero) {
    const float turn = 0x1.8p23f;
    value = value < low ? low : value;
    value = value > high ? high : value;
    const float whole = (value + turn) - turn;
    return (int8_t)((int32_t)whole + zero);
}

static msq_status read_quantize(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    return keeps_shape(graph, node, MSQ_FLOAT32, MSQ_INT8) ? MSQ_OK : misshapen(node);
}

static void run_quantize(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    graph->tier->quantize(y->count, (const float *)x->data, y->scale, y->zero, node->low, node->high, (int8_t *)y->data);
}

static msq_status read_dequantize(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    return keeps_shape(graph, node, MSQ_INT8, MSQ_FLOAT32) ? MSQ_OK : misshapen(node);
}

static void run_dequantize(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const int8_t *from = (const int8_t *)x->data;
    float *to = (float *)y->data;
    for (size_t i = 0; i < y->count; i++) to[i] = (float)(from[i] - x->zero) * x->scale;
}

/* Sums and products, in which a dimension of 1 is repeated. */
static msq_status read_arithmetic(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    const msq_tensor *p = msq_input_of(graph, node, 0), *q = msq_input_of(graph, node, 1);
    const msq_tensor *y = msq_output_of(graph, node);
    bool fits = msq_is_int8(p, 0) && msq_is_int8(q, p->rank) && msq_is_int8(y, p->rank);
    for (int32_t i = 0; fits && i < y->rank; i++)
        fits = (p->shape[i] == y->shape[i] || p->shape[i] == 1) && (q->shape[i] == y->shape[i] || q->shape[i] == 1) &&
               (p->shape[i] == y->shape[i] || q->shape[i] == y->shape[i]);
    if (!fits) return misshapen(node);
    const bool fits_scales = msq_is_ratio(p->scale / y->scale) && msq_is_ratio(q->scale / y->scale) &&
                             msq_is_ratio(p->scale * q->scale / y->scale);
    return fits_scales ? MSQ_OK : msq_node_fail(node, MSQ_INVALID, "scales of %g, %g and %g", (double)p->scale,
                                           (double)q->scale, (double)y->scale);
}

static void run_arithmetic(const msq_graph *graph, msq_node *node, bool is_product) {
    const msq_tensor *p = msq_input_of(graph, node, 0), *q = msq_input_of(graph, node, 1);
    const msq_tensor *y = msq_output_of(graph, node);
    const msq_arithmetic a = {
        .p_zero = p->zero,
        .q_zero = q->zero,
        .zero = y->zero,
        .low = node->low,
        .high = node->high,
        .p_ratio = p->scale / y->scale,
        .q_ratio = q->scale / y->scale,
        .multiplier = p->scale * q->scale / y->scale,
    };
    /* The last dimensions that lie alike in both, or of which one operand has but one code, go as one. */
    int32_t inner = y->rank;
    size_t count = 1;
    bool p_step = true, q_step = true;
    while (inner > 0) {
        const int32_t size = y->shape[inner - 1];
        const bool p_whole = p->shape[inner - 1] == size, q_whole = q->shape[inner - 1] == size;
        if (size > 1 && count > 1 && (p_whole != p_step || q_whole != q_step)) break;
        if (size > 1) {
            p_step = p_whole;
            q_step = q_whole;
        }
        count *= (size_t)size;
        inner--;
    }
    const size_t outer = y->count / count;
    int32_t at[MSQ_MOST_RANK] = {0};
    for (size_t done = 0; done < outer; done++) {
        size_t left = 0, right = 0;
        for (int32_t i = 0; i < y->rank; i++) {
            left = left * (size_t)p->shape[i] + (size_t)(p->shape[i] == 1 ? 0 : at[i]);
            right = right * (size_t)q->shape[i] + (size_t)(q->shape[i] == 1 ? 0 : at[i]);
        }
        (is_product ? msq_multiply : msq_add)(&a, count, (const int8_t *)p->data + left, p_step,
                                              (const int8_t *)q->data + right, q_step, (int8_t *)y->data + done * count);
        for (int32_t i = inner - 1; i >= 0 && ++at[i] == y->shape[i]; i--) at[i] = 0;
    }
}

static void run_add(const msq_graph *graph, msq_node *node) { run_arithmetic(graph, node, false); }

static void run_multiply(const msq_graph *graph, msq_node *node) { run_arithmetic(graph, node, true); }

static msq_status read_average_pool(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    if (!msq_is_int8(x, 3) || !msq_is_int8(y, 3) || y->shape[0] != 1 || y->shape[1] != 1 || y->shape[2] != x->shape[2] ||
        (int64_t)x->shape[0] * x->shape[1] > INT32_MAX / 255)
        return misshapen(node);
    return isfinite(x->scale / y->scale) ? MSQ_OK : misshapen(node);
}

static void run_average_pool(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const int32_t pixels = x->shape[0] * x->shape[1];
    const float share = (float)(1.0 / pixels);
    msq_average_pool(pixels, x->shape[2], (const int8_t *)x->data, x->zero, x->scale * share / y->scale, y->zero,
                     node->low, node->high, (int8_t *)y->data);
}

static msq_status read_lookup(msq_graph *graph, msq_node *node, int32_t json) {
    int32_t table[256];
    const void *codes = NULL; /* model.json spells it out, other files hold it as an array */
    const bool is_array = msq_json_member(&graph->json, json, "table") < 0;
    const msq_status status = is_array ? msq_read_array(graph, node, "table", "int8", 256, &codes)
                                       : msq_read_ints(graph, node, json, "table", 256, -128, 127, table);
    if (status) return status;
    for (int i = 0; i < 256; i++) node->table[i] = is_array ? ((const int8_t *)codes)[i] : (int8_t)table[i];
    return keeps_shape(graph, node, MSQ_INT8, MSQ_INT8) ? MSQ_OK : misshapen(node);
}

static void run_lookup(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    msq_lookup(node->table, y->count, (const int8_t *)x->data, (int8_t *)y->data);
}

static msq_status read_max_pool(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    msq_status status;
    if ((status = msq_read_ints(graph, node, json, "kernel", 2, 1, 1024, node->kernel)) ||
        (status = msq_read_ints(graph, node, json, "stride", 2, 1, 1024, node->stride)) ||
        (status = msq_read_ints(graph, node, json, "padding", 4, 0, 1023, node->padding)))
        return status;
    bool fits = msq_is_int8(x, 3) && msq_is_int8(y, 3) && x->shape[2] == y->shape[2];
    for (int i = 0; fits && i < 2; i++) {
        const int32_t room = x->shape[i] + node->padding[i] + node->padding[i + 2] - node->kernel[i];
        fits = room >= 0 && y->shape[i] == room / node->stride[i] + 1;
    }
    return fits ? MSQ_OK : misshapen(node);
}

static void run_max_pool(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const size_t channels = (size_t)x->shape[2], line = (size_t)x->shape[1] * channels;
    const int32_t stride = node->stride[1];
    int8_t *to = (int8_t *)y->data;
    memset(to, -128, y->count);
    for (int32_t oy = 0; oy < y->shape[0]; oy++, to += (size_t)y->shape[1] * channels) {
        const int32_t top = oy * node->stride[0] - node->padding[0], below = top + node->kernel[0];
        for (int32_t iy = top > 0 ? top : 0; iy < below && iy < x->shape[0]; iy++) {
            for (int32_t k = 0; k < node->kernel[1]; k++) {
                /* Of the line's outputs, those whose k-th tap lies within the input: ix = ox · stride + at. */
                const int32_t at = k - node->padding[1], last = x->shape[1] - 1 - at;
                const int32_t first = at < 0 ? (-at + stride - 1) / stride : 0;
                int32_t end = last < 0 ? 0 : last / stride + 1;
                if (end > y->shape[1]) end = y->shape[1];
                if (first >= end) continue;
                const int8_t *from =
                    (const int8_t *)x->data + (size_t)iy * line + (size_t)(first * stride + at) * channels;
                graph->tier->maximum(end - first, channels, from, (size_t)stride * channels,
                                     to + (size_t)first * channels, channels);
            }
        }
    }
}

static msq_status read_view(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    return msq_is_int8(x, 0) && msq_is_int8(y, 0) && x->count == y->count ? MSQ_OK : misshapen(node);
}

/* The planner lets a view lie where its input lies, but for what the caller holds. */
static void run_view(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0);
    msq_tensor *y = msq_output_of(graph, node);
    if (y->is_output)
        memcpy(y->data, x->data, y->count);
    else
        y->data = x->data;
}

static msq_status read_transpose(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const msq_status status = msq_read_ints(graph, node, json, "axes", x->rank, 0, x->rank - 1, node->axes);
    if (status) return status;
    uint32_t seen = 0;
    bool fits = msq_is_int8(x, 0) && msq_is_int8(y, x->rank);
    for (int32_t i = 0; fits && i < x->rank; i++) {
        fits = y->shape[i] == x->shape[node->axes[i]] && !(seen >> node->axes[i] & 1);
        seen |= 1u << node->axes[i];
    }
    return fits ? MSQ_OK : misshapen(node);
}

static void run_transpose(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const int8_t *from = (const int8_t *)x->data;
    int8_t *to = (int8_t *)y->data;
    const int32_t last = y->rank - 1;
    size_t step[MSQ_MOST_RANK];
    for (int32_t i = 0; i < y->rank; i++) step[i] = product(x, node->axes[i] + 1, x->rank);
    const size_t inner = (size_t)y->shape[last];
    int32_t at[MSQ_MOST_RANK] = {0};
    for (size_t done = 0; done < y->count; done += inner, to += inner) {
        size_t begin = 0;
        for (int32_t i = 0; i < last; i++) begin += (size_t)at[i] * step[i];
        if (step[last] == 1)
            memcpy(to, from + begin, inner);
        else
            for (size_t i = 0; i < inner; i++) to[i] = from[begin + i * step[last]];
        for (int32_t i = last - 1; i >= 0 && ++at[i] == y->shape[i]; i--) at[i] = 0;
    }
}

static msq_status read_concat(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *y = msq_output_of(graph, node);
    const msq_status status = msq_read_ints(graph, node, json, "axis", 1, 0, y->rank - 1, &node->axis);
    if (status) return status;
    int64_t total = 0;
    for (int32_t k = 0; k < node->input_count; k++) {
        const msq_tensor *x = msq_input_of(graph, node, k);
        if (!msq_is_int8(x, y->rank) || !msq_is_int8(y, 0)) return misshapen(node);
        for (int32_t i = 0; i < y->rank; i++)
            if (i != node->axis && x->shape[i] != y->shape[i]) return misshapen(node);
        total += x->shape[node->axis];
    }
    return total == y->shape[node->axis] ? MSQ_OK : misshapen(node);
}

static void run_concat(const msq_graph *graph, msq_node *node) {
    const msq_tensor *y = msq_output_of(graph, node);
    const size_t outer = product(y, 0, node->axis), row = y->count / outer;
    uint8_t *to = y->data;
    for (int32_t k = 0; k < node->input_count; k++) {
        const msq_tensor *x = msq_input_of(graph, node, k);
        const size_t piece = x->count / outer;
        for (size_t i = 0; i < outer; i++) memcpy(to + i * row, x->data + i * piece, piece);
        to += piece;
    }
}

static msq_status read_slice(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    int32_t stop;
    msq_status status;
    if ((status = msq_read_ints(graph, node, json, "axis", 1, 0, x->rank - 1, &node->axis)) ||
        (status = msq_read_ints(graph, node, json, "start", 1, 0, x->shape[node->axis], &node->start)) ||
        (status = msq_read_ints(graph, node, json, "stop", 1, node->start, x->shape[node->axis], &stop)))
        return status;
    bool fits = msq_is_int8(x, 0) && msq_is_int8(y, x->rank);
    for (int32_t i = 0; fits && i < x->rank; i++)
        fits = y->shape[i] == (i == node->axis ? stop - node->start : x->shape[i]);
    return fits ? MSQ_OK : misshapen(node);
}

static void run_slice(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const size_t outer = product(x, 0, node->axis), inner = product(x, node->axis + 1, x->rank);
    const size_t row = x->count / outer, piece = y->count / outer;
    for (size_t i = 0; i < outer; i++)
        memcpy(y->data + i * piece, x->data + i * row + (size_t)node->start * inner, piece);
}

static msq_status read_constant(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    const msq_tensor *y = msq_output_of(graph, node);
    const void *codes;
    if (!msq_is_int8(y, 0)) return misshapen(node);
    const msq_status status = msq_read_array(graph, node, "codes", "int8", y->count, &codes);
    node->codes = codes;
    return status;
}

static void run_nothing(const msq_graph *graph, msq_node *node) {
    (void)graph;
    (void)node;
}

static msq_status read_matmul(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *p = msq_input_of(graph, node, 0), *q = msq_input_of(graph, node, 1);
    const msq_tensor *y = msq_output_of(graph, node);
    const msq_status status = msq_read_float(graph, node, json, "factor", &node->factor);
    if (status) return status;
    const int32_t rank = y->rank;
    bool fits = rank >= 2 && msq_is_int8(y, 0) && msq_is_int8(p, rank) && msq_is_int8(q, rank);
    for (int32_t i = 0; fits && i < rank - 2; i++) fits = p->shape[i] == y->shape[i] && q->shape[i] == y->shape[i];
    if (!fits || p->shape[rank - 1] != q->shape[rank - 2] || p->shape[rank - 2] != y->shape[rank - 2] ||
        q->shape[rank - 1] != y->shape[rank - 1] || p->shape[rank - 1] > INT32_MAX / (255 * 255))
        return misshapen(node);
    return isfinite(p->scale * q->scale * node->factor / y->scale) ? MSQ_OK : misshapen(node);
}

static msq_product product_of(const msq_graph *graph, const msq_node *node) {
    const msq_tensor *p = msq_input_of(graph, node, 0), *q = msq_input_of(graph, node, 1);
    const msq_tensor *y = msq_output_of(graph, node);
    return (msq_product){
        .batch = (int32_t)product(y, 0, y->rank - 2),
        .m = y->shape[y->rank - 2],
        .k = p->shape[p->rank - 1],
        .n = y->shape[y->rank - 1],
        .p_zero = p->zero,
        .q_zero = q->zero,
        .zero = y->zero,
        .low = node->low,
        .high = node->high,
        .multiplier = p->scale * q->scale * node->factor / y->scale,
    };
}

static msq_status matmul_needs(const msq_graph *graph, msq_node *node) {
    const msq_product spec = product_of(graph, node);
    const msq_status status = msq_matmul_workspace(&spec, graph->threads, &node->workspace_bytes);
    return status ? msq_kernel_failed(node, status) : MSQ_OK;
}

static void run_matmul(const msq_graph *graph, msq_node *node) {
    const msq_product spec = product_of(graph, node);
    /* All that it could refuse was checked when the model was loaded. */
    msq_matmul(&spec, (const int8_t *)msq_input_of(graph, node, 0)->data,
               (const int8_t *)msq_input_of(graph, node, 1)->data, (int8_t *)msq_output_of(graph, node)->data,
               node->scratch, node->workspace_bytes, graph->threads);
}

static msq_status read_softmax(msq_graph *graph, msq_node *node, int32_t json) {
    (void)json;
    const msq_tensor *x = msq_input_of(graph, node, 0);
    const void *table;
    const msq_status status = msq_read_array(graph, node, "table", "int32", 256, &table);
    if (status) return status;
    node->exponentials = table;
    const int32_t most = node->exponentials[0];
    bool fits = keeps_shape(graph, node, MSQ_INT8, MSQ_INT8) && most > 0 &&
                (int64_t)most * x->shape[x->rank - 1] <= INT32_MAX;
    for (int i = 0; fits && i < 256; i++) fits = node->exponentials[i] >= 0 && node->exponentials[i] <= most;
    return fits ? MSQ_OK : misshapen(node);
}

static void run_softmax(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const size_t n = (size_t)x->shape[x->rank - 1];
    const int8_t *from = (const int8_t *)x->data;
    int8_t *to = (int8_t *)y->data;
    const int32_t *exponentials = node->exponentials, zero = y->zero;
    const float scale = y->scale;
    const float low = (float)(node->low - zero), high = (float)(node->high - zero);
    for (size_t done = 0; done < x->count; done += n, from += n, to += n) {
        int8_t largest = -128;
        for (size_t i = 0; i < n; i++) largest = from[i] > largest ? from[i] : largest;
        int32_t total = 0;
        for (size_t i = 0; i < n; i++) total += exponentials[largest - from[i]];
        for (size_t first = 0, count; first < n; first += count) {
            count = n - first < PIECE ? n - first : PIECE;
            float shares[PIECE];
            int8_t codes[PIECE];
            for (size_t i = 0; i < count; i++) shares[i] = (float)exponentials[largest - from[first + i]];
            for (size_t i = 0; i < count; i++) codes[i] = code_of(shares[i] / (float)total / scale, low, high, zero);
            memcpy(to + first, codes, count);
        }
    }
}

static msq_status read_layer_norm(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0);
    const size_t n = (size_t)x->shape[x->rank - 1];
    const void *gamma, *beta;
    msq_status status;
    if ((status = msq_read_array(graph, node, "gamma", "float32", n, &gamma)) ||
        (status = msq_read_array(graph, node, "beta", "float32", n, &beta)) ||
        (status = msq_read_float(graph, node, json, "epsilon", &node->epsilon)))
        return status;
    node->gamma = gamma;
    node->beta = beta;
    bool fits = keeps_shape(graph, node, MSQ_INT8, MSQ_INT8) && n < 1 << 16 && node->epsilon > 0 &&
                isfinite(node->epsilon);
    for (size_t i = 0; fits && i < n; i++) fits = isfinite(node->gamma[i]) && isfinite(node->beta[i]);
    return fits ? MSQ_OK : misshapen(node);
}

static void run_layer_norm(const msq_graph *graph, msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    const int32_t n = x->shape[x->rank - 1], zero = y->zero; /* n < 2^16: n · code fits */
    const int8_t *from = (const int8_t *)x->data;
    int8_t *to = (int8_t *)y->data;
    const float *gamma = node->gamma, *beta = node->beta, scale = y->scale;
    const float low = (float)(node->low - zero), high = (float)(node->high - zero);
    for (size_t done = 0; done < x->count; done += (size_t)n, from += n, to += n) {
        int32_t total = 0, squares = 0;
        for (int32_t i = 0; i < n; i++) {
            total += from[i];
            squares += from[i] * from[i];
        }
        const int64_t variance = (int64_t)n * squares - (int64_t)total * total;
        const float deviation = sqrtf((float)variance + node->epsilon);
        for (int32_t first = 0, count; first < n; first += count) {
            count = n - first < PIECE ? n - first : PIECE;
            int8_t codes[PIECE];
            for (int32_t i = 0; i < count; i++) {
                const float normal = (float)(n * from[first + i] - total) / deviation;
                codes[i] = code_of((normal * gamma[first + i] + beta[first + i]) / scale, low, high, zero);
            }
            memcpy(to + first, codes, (size_t)count);
        }
    }
}

static const msq_operation OPERATIONS[] = {
    {"quantize", 1, read_quantize, run_quantize, NULL, false, false},
    {"dequantize", 1, read_dequantize, run_dequantize, NULL, false, false},
    {"conv2d", 1, msq_read_conv2d, msq_run_layer, msq_layer_needs, false, false},
    {"linear", 1, msq_read_linear, msq_run_layer, msq_layer_needs, false, false},
    {"add", 2, read_arithmetic, run_add, NULL, false, true},
    {"average_pool", 1, read_average_pool, run_average_pool, NULL, false, false},
    {"lookup", 1, read_lookup, run_lookup, NULL, false, true},
    {"multiply", 2, read_arithmetic, run_multiply, NULL, false, true},
    {"max_pool", 1, read_max_pool, run_max_pool, NULL, false, false},
    {"flatten", 1, read_view, run_view, NULL, true, false},
    {"matmul", 2, read_matmul, run_matmul, matmul_needs, false, false},
    {"softmax", 1, read_softmax, run_softmax, NULL, false, true},
    {"layer_norm", 1, read_layer_norm, run_layer_norm, NULL, false, true},
    {"reshape", 1, read_view, run_view, NULL, true, false},
    {"transpose", 1, read_transpose, run_transpose, NULL, false, false},
    {"concat", -1, read_concat, run_concat, NULL, false, false},
    {"slice", 1, read_slice, run_slice, NULL, false, false},
    {"constant", 0, read_constant, run_nothing, NULL, false, false},
};

const msq_operation *msq_operation_named(const char *kind, size_t size) {
    for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++)
        if (strlen(OPERATIONS[i].kind) == size && memcmp(OPERATIONS[i].kind, kind, size) == 0) return &OPERATIONS[i];
    return NULL;
}

bool msq_is_addition(const msq_operation *operation) { return operation->run == run_add; }
