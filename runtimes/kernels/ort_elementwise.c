/* The arithmetic without weights of the hook: RoundedAdd, Multiply, Lookup, AveragePool. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msq_kernels.h"
#include "ort_operator.h"

enum { ADD, MULTIPLY, LOOKUP, AVERAGE_POOL, KINDS };
enum { MOST_DIMENSIONS = 8 };

typedef struct {
    const OrtApi *api;
    int kind;
    msq_arithmetic arithmetic;
    const int8_t *table;
} kernel;

static const struct {
    const char *name;
    size_t inputs;
    int types[MOST_INPUTS];
    unsigned tensors; /* bits: inputs that are no constants */
} OPERATORS[KINDS] = {
    /* p, p_ratio, p_zero, q, q_ratio, q_zero, y_zero */
    [ADD] = {"RoundedAdd", 7, {ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_INT8}, 1 | 8},
    /* p, p_zero, q, q_zero, multiplier, y_zero */
    [MULTIPLY] = {"Multiply", 6, {ORT_INT8, ORT_INT8, ORT_INT8, ORT_INT8, ORT_FLOAT, ORT_INT8}, 1 | 4},
    /* x, table */
    [LOOKUP] = {"Lookup", 2, {ORT_INT8, ORT_INT8}, 1},
    /* x, x_scale, x_zero, w_scale, y_scale, y_zero */
    [AVERAGE_POOL] = {"AveragePool", 6, {ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_FLOAT, ORT_FLOAT, ORT_INT8}, 1},
};

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    const msq_operator *self = (const msq_operator *)op;
    const void *data[MOST_INPUTS] = {NULL};
    for (size_t i = 0; i < self->inputs; i++) {
        if (OPERATORS[self->kind].tensors >> i & 1) continue;
        size_t count;
        TRY(msq_constant(api, info, i, self->name, &data[i], &count));
        if (count != (self->kind == LOOKUP ? 256u : 1u))
            return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "packed kernels: a constant of another size");
    }
#define FLOAT(i) (*(const float *)data[i])
#define CODE(i) (*(const int8_t *)data[i])
    msq_arithmetic a = {.low = -128, .high = 127};
    switch (self->kind) {
        case ADD:
            a.p_ratio = FLOAT(1), a.p_zero = CODE(2), a.q_ratio = FLOAT(4), a.q_zero = CODE(5), a.zero = CODE(6);
            break;
        case MULTIPLY:
            a.p_zero = CODE(1), a.q_zero = CODE(3), a.multiplier = FLOAT(4), a.zero = CODE(5);
            break;
        case AVERAGE_POOL:
            a.multiplier = FLOAT(1) * FLOAT(3) / FLOAT(4), a.p_zero = CODE(2), a.zero = CODE(5);
            break;
        default:
            break;
    }
#undef FLOAT
#undef CODE
    kernel *made = malloc(sizeof *made);
    if (made == NULL) return ORT_CreateStatus(api)(ORT_FAIL, "no memory for a kernel");
    *made = (kernel){api, self->kind, a, self->kind == LOOKUP ? data[1] : NULL};
    *out = made;
    return NULL;
}

/* Combine tensors of one rank, a dimension of 1 repeated: dimensions that both have whole are run through at once. */
static msq_status combine(const kernel *k, size_t rank, const int64_t *p_sizes, const int64_t *q_sizes,
                          const int64_t *sizes, const int8_t *p, const int8_t *q, int8_t *y) {
    size_t outer = rank, count = 1, p_whole = 0, q_whole = 0;
    while (outer > 0) {
        const int64_t size = sizes[outer - 1];
        const size_t p_has = p_sizes[outer - 1] == size, q_has = q_sizes[outer - 1] == size;
        if (count > 1 && size > 1 && (p_has != p_whole || q_has != q_whole)) break;
        if (size > 1) p_whole = p_has, q_whole = q_has;
        count *= (size_t)size;
        outer--;
    }
    if (count == 1) p_whole = q_whole = 1;
    int64_t at[MOST_DIMENSIONS] = {0};
    for (;;) {
        size_t p_at = 0, q_at = 0;
        for (size_t i = 0; i < outer; i++) {
            p_at = p_at * (size_t)p_sizes[i] + (p_sizes[i] > 1 ? (size_t)at[i] : 0);
            q_at = q_at * (size_t)q_sizes[i] + (q_sizes[i] > 1 ? (size_t)at[i] : 0);
        }
        const int8_t *left = p + p_at * (p_whole ? count : 1), *right = q + q_at * (q_whole ? count : 1);
        const msq_status status =
            k->kind == ADD ? msq_add(&k->arithmetic, count, left, (int32_t)p_whole, right, (int32_t)q_whole, y)
                           : msq_multiply(&k->arithmetic, count, left, (int32_t)p_whole, right, (int32_t)q_whole, y);
        if (status) return status;
        y += count;
        size_t i = outer;
        while (i > 0 && ++at[i - 1] == sizes[i - 1]) at[--i] = 0;
        if (i == 0) return MSQ_OK;
    }
}

static OrtStatus *compute(void *made, OrtKernelContext *context) {
    const kernel *k = made;
    const OrtApi *api = k->api;
    const char *name = OPERATORS[k->kind].name;
    const OrtValue *p = NULL, *q = NULL;
    OrtValue *y = NULL;
    const int8_t *left, *right = NULL;
    int8_t *result;
    int64_t sizes[MOST_DIMENSIONS], p_sizes[MOST_DIMENSIONS], q_sizes[MOST_DIMENSIONS];
    size_t rank, q_rank, count = 1;
    TRY(ORT_KernelContext_GetInput(api)(context, 0, &p));
    TRY(msq_shape_of(api, p, p_sizes, MOST_DIMENSIONS, &rank));
    memcpy(sizes, p_sizes, sizeof sizes);
    if (k->kind == ADD || k->kind == MULTIPLY) {
        TRY(ORT_KernelContext_GetInput(api)(context, k->kind == ADD ? 3 : 2, &q));
        TRY(msq_shape_of(api, q, q_sizes, MOST_DIMENSIONS, &q_rank));
        bool fits = q_rank == rank;
        for (size_t i = 0; fits && i < rank; i++) {
            fits = p_sizes[i] == q_sizes[i] || p_sizes[i] == 1 || q_sizes[i] == 1;
            if (p_sizes[i] == 1) sizes[i] = q_sizes[i];
        }
        if (!fits) return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "packed kernels: shapes that do not fit");
        TRY(ORT_GetTensorMutableData(api)(q, (void **)(uintptr_t)&right));
    } else if (k->kind == AVERAGE_POOL) {
        if (rank != 4) return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "packed kernels: an average of no map");
        sizes[1] = sizes[2] = 1;
    }
    for (size_t i = 0; i < rank; i++) count *= (size_t)sizes[i];
    TRY(ORT_KernelContext_GetOutput(api)(context, 0, sizes, rank, &y));
    if (count == 0) return NULL;
    TRY(ORT_GetTensorMutableData(api)(p, (void **)(uintptr_t)&left));
    TRY(ORT_GetTensorMutableData(api)(y, (void **)&result));
    msq_status status = MSQ_OK;
    if (k->kind == LOOKUP) {
        msq_lookup(k->table, count, left, result);
    } else if (k->kind == AVERAGE_POOL) {
        const int64_t pixels = p_sizes[1] * p_sizes[2], channels = p_sizes[3];
        const msq_arithmetic *a = &k->arithmetic;
        for (int64_t image = 0; image < p_sizes[0] && status == MSQ_OK; image++)
            status = msq_average_pool((int32_t)(pixels < INT32_MAX ? pixels : INT32_MAX), (int32_t)channels,
                                      left + image * pixels * channels, a->p_zero, a->multiplier, a->zero, a->low,
                                      a->high, result + image * channels);
    } else {
        status = combine(k, rank, p_sizes, q_sizes, sizes, left, right, result);
    }
    return status ? msq_failed(api, name) : NULL;
}

OrtStatus *msq_add_elementwise(const OrtApi *api, OrtCustomOpDomain *domain) {
    static msq_operator operators[KINDS];
    for (int i = 0; i < KINDS; i++) {
        msq_operator *made = &operators[i];
        made->kind = i;
        made->inputs = OPERATORS[i].inputs;
        memcpy(made->types, OPERATORS[i].types, sizeof made->types);
        snprintf(made->name, sizeof made->name, "%s", OPERATORS[i].name);
        TRY(msq_add_operator(api, domain, made, create, compute, free));
    }
    return NULL;
}
