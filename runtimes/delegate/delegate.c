/* The delegate: what it takes over of a graph, and its options. */
#include <stdlib.h>
#include <string.h>

#include "msq_litert.h"
#include "part.h"

/* Choose the nodes to take over: all of ours, and behind them what can be had on the way. is_made: for every tensor,
 * whether one that is chosen makes it. Returns how many are ours. */
static int choose(lite_context *context, const lite_ints *plan, lite_ints *chosen, bool *is_made) {
    int count = 0;
    chosen->size = 0;
    for (int i = 0; i < plan->size; i++) {
        lite_node *node;
        lite_registration *registration;
        bool is_ours;
        if (context->GetNodeAndRegistration(context, plan->data[i], &node, &registration) ||
            msq_operation_of(context, node, registration, &is_ours) == NULL ||
            !(is_ours || is_made[node->inputs->data[0]]))
            continue;
        count += is_ours;
        chosen->data[chosen->size++] = plan->data[i];
        if (msq_are_there(context, node->outputs))
            for (int k = 0; k < node->outputs->size; k++) is_made[node->outputs->data[k]] = true;
    }
    return count;
}

static int claim(lite_context *context, lite_delegate *face) {
    lite_ints *plan;
    if (context->GetExecutionPlan(context, &plan)) return LITE_ERROR;
    lite_ints *chosen = malloc(sizeof *chosen + (size_t)plan->size * sizeof *chosen->data);
    bool *is_made = calloc(context->tensors_size + 1, sizeof *is_made);
    int status = LITE_ERROR;
    if (chosen && is_made) {
        ((msq_delegate *)face)->operators += choose(context, plan, chosen, is_made);
        status = context->ReplaceNodeSubsetsWithDelegateKernels(context, msq_part_kernel, chosen, face);
    }
    free(chosen);
    free(is_made);
    return status;
}

uint32_t msq_litert_abi(void) { return MSQ_LITERT_ABI; }

int32_t msq_litert_operators(const lite_delegate *face) { return ((const msq_delegate *)face)->operators; }

/* Read an option's whole number; false if it is none within low..high. */
static bool read_number(const char *text, long low, long high, long *number) {
    char *end;
    *number = strtol(text, &end, 10);
    return end != text && *end == 0 && *number >= low && *number <= high;
}

static msq_status create(const char *const *keys, const char *const *values, size_t count, msq_delegate *made) {
    long threads = 1, copies = 0;
    if (made == NULL) return msq_fail(MSQ_MEMORY, "no memory for a delegate");
    if (msq_current_tier() == NULL) return MSQ_UNSUPPORTED;
    for (size_t i = 0; i < count; i++) {
        const bool is_threads = strcmp(keys[i], "threads") == 0;
        if (!is_threads && strcmp(keys[i], "copy"))
            return msq_fail(MSQ_INVALID, "unknown option %s; there are: copy, threads", keys[i]);
        if (is_threads && !read_number(values[i], 1, 256, &threads))
            return msq_fail(MSQ_INVALID, "%s threads; 1 to 256 can be had", values[i]);
        if (!is_threads && !read_number(values[i], 0, 1, &copies))
            return msq_fail(MSQ_INVALID, "copy=%s; it is 0 or 1", values[i]);
    }
    made->copies = copies;
    return msq_threads_create((int32_t)threads, &made->threads);
}

lite_delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values, size_t count,
                                             void (*report_error)(const char *)) {
    msq_delegate *made = calloc(1, sizeof *made);
    if (create(keys, values, count, made)) {
        if (report_error) report_error(msq_error());
        free(made);
        return NULL;
    }
    made->face = (lite_delegate){.data = made, .prepare = claim, .flags = LITE_ALLOWS_DYNAMIC_TENSORS};
    return &made->face;
}

void tflite_plugin_destroy_delegate(lite_delegate *face) {
    if (face == NULL) return;
    msq_delegate *made = (msq_delegate *)face;
    msq_threads_destroy(made->threads);
    free(made);
}
