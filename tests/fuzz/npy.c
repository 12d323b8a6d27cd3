/* The reader of .npy files: the input is one. What its header says is read as far as the file goes. */
#include "npy.h"

#include <unistd.h>

#include "fuzz.h"

msq_status fuzz_status;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static FILE *file;
    static char path[64];
    if (file == NULL) must(file = tmpfile());
    const int descriptor = fileno(file);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    must(ftruncate(descriptor, 0) == 0 && pwrite(descriptor, data, size, 0) == (ssize_t)size);
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
