/* A loaded model: its files, its arena, and the walk over its nodes. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "files.h"
#include "operators.h"
#include "schedule.h"

struct msq_model {
    msq_graph graph;
    msq_mapping weights; /* a file's; nothing, where the caller holds them */
    size_t weight_bytes;
    uint8_t *arena;
    msq_watcher watcher;
    void *context;
    bool is_timed;
};

/* Make a model of its text and of weights that stay where they are. folder: where it comes from, for messages. */
static msq_status build(msq_model *model, const char *folder, const msq_mapping *text, msq_mapping *weights,
                        const msq_options *options) {
    msq_graph *graph = &model->graph;
    msq_status status = msq_threads_create(options->threads, &graph->threads);
    if (status) return status;
    if ((graph->tier = msq_current_tier()) == NULL) return MSQ_UNSUPPORTED;
    graph->arrays = weights;
    model->weight_bytes = weights->size;
    if ((status = msq_graph_read(graph, (const char *)text->at, text->size)) ||
        (status = msq_schedule(graph, options->fuse)))
        return msq_fail(status, "%.100s%smodel.json: %s", folder, *folder ? "/" : "", msq_error());
    /* All that was read lives in the graph now. */
    msq_json_free(&graph->json);
    const size_t bytes = (graph->arena_bytes + ATOM) / ATOM * ATOM;
    model->arena = aligned_alloc(ATOM, bytes);
    if (model->arena == NULL) return msq_fail(MSQ_MEMORY, "no memory for an arena of %zu bytes", bytes);
    msq_settle(graph, model->arena);
    return MSQ_OK;
}

static msq_status load(msq_model *model, const char *folder, const msq_options *options) {
    msq_mapping text = {0};
    msq_status status;
    if ((status = msq_map(&text, folder, "model.json")) == MSQ_OK &&
        (status = msq_map(&model->weights, folder, "weights.bin")) == MSQ_OK)
        status = build(model, folder, &text, &model->weights, options);
    msq_unmap(&text);
    return status;
}

static msq_status load_memory(msq_model *model, const msq_mapping *text, msq_mapping *weights,
                              const msq_options *options) {
    const int behind = (int)((uintptr_t)weights->at % ATOM);
    if (behind) return msq_fail(MSQ_ALIGNMENT, "weights lie %d bytes behind a multiple of 64", behind);
    return build(model, "", text, weights, options);
}

static msq_status create(const msq_options *options, msq_model **out) {
    *out = NULL;
    if (options->abi != MSQ_NATIVE_ABI)
        return msq_fail(MSQ_ABI, "the caller was built for version %u of the native runtime, this is version %u",
                        options->abi, MSQ_NATIVE_ABI);
    *out = calloc(1, sizeof **out);
    return *out ? MSQ_OK : msq_fail(MSQ_MEMORY, "no memory for a model");
}

/* Hand out a model that is whole, and nothing otherwise. */
static msq_status finish(msq_status status, msq_model **out) {
    if (status) {
        msq_model_free(*out);
        *out = NULL;
    }
    return status;
}

uint32_t msq_native_abi(void) { return MSQ_NATIVE_ABI; }

const char *msq_native_version(void) { return MSQ_VERSION; }

msq_status msq_model_load(const char *folder, const msq_options *options, msq_model **out) {
    const msq_status status = create(options, out);
    return status ? status : finish(load(*out, folder, options), out);
}

msq_status msq_model_load_memory(const void *json, size_t json_bytes, const void *weights, size_t weight_bytes,
                                 const msq_options *options, msq_model **out) {
    /* Neither is written. */
    const msq_mapping text = {(uint8_t *)(uintptr_t)json, json_bytes};
    msq_mapping arrays = {(uint8_t *)(uintptr_t)weights, weight_bytes};
    const msq_status status = create(options, out);
    return status ? status : finish(load_memory(*out, &text, &arrays, options), out);
}

void msq_model_free(msq_model *model) {
    if (model == NULL) return;
    msq_graph_free(&model->graph);
    msq_threads_destroy(model->graph.threads);
    msq_unmap(&model->weights);
    free(model->arena);
    free(model);
}

static msq_tensor_info info_of(const msq_tensor *tensor) {
    msq_tensor_info info = {
        .name = tensor->name,
        .dtype = tensor->dtype,
        .rank = tensor->rank,
        .count = tensor->count,
        .scale = tensor->scale,
        .zero_point = tensor->zero,
    };
    memcpy(info.shape, tensor->shape, sizeof info.shape);
    return info;
}

void msq_model_input(const msq_model *model, msq_tensor_info *info) {
    *info = info_of(&model->graph.tensors[model->graph.input]);
}

void msq_model_output(const msq_model *model, msq_tensor_info *info) {
    *info = info_of(&model->graph.tensors[model->graph.output]);
}

void msq_model_memory(const msq_model *model, msq_memory_info *info) {
    *info = (msq_memory_info){model->graph.arena_bytes, model->graph.arena_bound, model->weight_bytes};
}

static uint64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void run_image(msq_model *model, int32_t image) {
    msq_graph *graph = &model->graph;
    for (int32_t i = 0; i < graph->node_count; i++) {
        msq_node *node = &graph->nodes[i];
        if (node->done_by >= 0) continue;
        const uint64_t begin = model->is_timed ? nanoseconds() : 0;
        node->operation->run(graph, node);
        if (model->is_timed) {
            node->nanoseconds += nanoseconds() - begin;
            node->runs++;
        }
        if (model->watcher == NULL) continue;
        const msq_tensor *made = msq_made_by(graph, node);
        const msq_tensor_info info = info_of(made);
        model->watcher(model->context, image, &info, made->data);
    }
}

msq_status msq_model_run(msq_model *model, int32_t images, const float *input, size_t input_bytes, float *output,
                         size_t output_bytes) {
    msq_tensor *x = &model->graph.tensors[model->graph.input], *y = &model->graph.tensors[model->graph.output];
    if (images < 0) return msq_fail(MSQ_INPUT, "%d images", images);
    if (input_bytes != (size_t)images * msq_tensor_bytes(x) || output_bytes != (size_t)images * msq_tensor_bytes(y))
        return msq_fail(MSQ_INPUT, "an input of %zu bytes and room for %zu; %d images take %zu and %zu", input_bytes,
                        output_bytes, images, (size_t)images * msq_tensor_bytes(x), (size_t)images * msq_tensor_bytes(y));
    for (int32_t image = 0; image < images; image++, input += x->count, output += y->count) {
        const size_t wrong = msq_first_nan(input, x->count);
        if (wrong < x->count) return msq_fail(MSQ_INPUT, "image %d: element %zu is not a number", image, wrong);
        x->data = (uint8_t *)(uintptr_t)input; /* no node writes it */
        y->data = (uint8_t *)output;
        run_image(model, image);
    }
    return MSQ_OK;
}

void msq_model_watch(msq_model *model, msq_watcher watcher, void *context) {
    model->watcher = watcher;
    model->context = context;
}

void msq_model_profile(msq_model *model, int32_t on) {
    model->is_timed = on;
    for (int32_t i = 0; on && i < model->graph.node_count; i++)
        model->graph.nodes[i].runs = model->graph.nodes[i].nanoseconds = 0;
}

int32_t msq_model_nodes(const msq_model *model) { return model->graph.node_count; }

void msq_model_node(const msq_model *model, int32_t index, msq_node_info *info) {
    const msq_graph *graph = &model->graph;
    const msq_node *node = &graph->nodes[index];
    *info = (msq_node_info){
        .name = node->name,
        .kind = node->operation->kind,
        .output = graph->tensors[node->output].name,
        .is_fused = node->done_by >= 0,
        .runs = node->runs,
        .nanoseconds = node->nanoseconds,
        .arena_bytes = msq_live_bytes(graph, index),
    };
}
