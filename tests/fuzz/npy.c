/* The reader of .npy files: the input is one. What its header says is read as far as the file goes. */
#define _GNU_SOURCE
#include "npy.h"

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

msq_status fuzz_status;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int file = -1;
    static char path[64];
    if (file < 0) {
        file = memfd_create("fuzz", 0);
        must(file >= 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    must(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
    msq_npy array;
    msq_status status = fuzz_result(msq_npy_open(&array, path));
    if (status == MSQ_OK) {
        must(array.rank >= 0 && array.rank <= NPY_MOST_RANK && strlen(array.type) == 2);
        for (int32_t i = 0; i < array.rank; i++) must(array.shape[i] >= 0 && array.shape[i] <= INT32_MAX);
        uint8_t bytes[64];
        while (status == MSQ_OK) status = msq_npy_read(&array, bytes, sizeof bytes);
        must(fuzz_result(status) == MSQ_INPUT);
        fuzz_status = MSQ_OK; /* that it ends is no failure of this file */
    }
    msq_npy_close(&array);
    return 0;
}
