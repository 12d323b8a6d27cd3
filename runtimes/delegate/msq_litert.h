/* The delegate for LiteRT, and for TensorFlow Lite before it: runs the custom operators "msq.*" of a packed .tflite
 * file on the packed kernels, with exactly the arithmetic of the integer model.
 *
 * Load it as an external delegate: load_delegate("libmsq_litert.so", {"threads": 2}) in Python,
 * TfLiteExternalDelegateOptionsDefault("libmsq_litert.so") in C. Weights stay in the file that the runtime maps. All
 * that a model needs is allocated while it is loaded; running allocates nothing. A delegate serves one interpreter,
 * which it must outlive. */
#ifndef MSQ_LITERT_H
#define MSQ_LITERT_H

#include "msq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MSQ_LITERT_ABI 1

struct lite_delegate; /* TfLiteDelegate */

/* Version of this interface that the library was built with. */
MSQ_API uint32_t msq_litert_abi(void);

/* How many operators the delegate has taken over so far. */
MSQ_API int32_t msq_litert_operators(const struct lite_delegate *delegate);

/* Make a delegate. Options:
 *   threads   1 to 256, the calling one included; without it 1
 *   copy      1: weights of a model that does not lie at a multiple of 64 bytes, as one in an archive or in an
 *             application's own memory may not, are copied where they can be read; without it they are refused
 * NULL, after report_error has had one line: an option is unknown, or cannot be had. */
MSQ_API struct lite_delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *values,
                                                            size_t count, void (*report_error)(const char *));
MSQ_API void tflite_plugin_destroy_delegate(struct lite_delegate *delegate);

#ifdef __cplusplus
}
#endif
#endif
