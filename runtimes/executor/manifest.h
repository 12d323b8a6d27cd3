/* manifest.json of a bundle: what its files must be, and how pixels become the model's input. */
#ifndef MSQ_MANIFEST_H
#define MSQ_MANIFEST_H

#include "msq_kernels.h"

enum { MOST_CHANNELS = 16 };

typedef struct {
    int32_t channels;
    float mean[MOST_CHANNELS], std[MOST_CHANNELS];
} msq_manifest;

/* Read it, and check the files that a model is loaded from by their sha256. MSQ_FILE. */
msq_status msq_manifest_read(msq_manifest *manifest, const char *folder);

#endif
