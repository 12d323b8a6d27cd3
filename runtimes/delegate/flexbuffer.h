/* FlexBuffers, in which TFLite files hold what custom operators say of themselves. */
#ifndef MSQ_FLEXBUFFER_H
#define MSQ_FLEXBUFFER_H

#include "json.h"

/* Cut a FlexBuffer, which must outlive the result, into the values that a JSON text of the same content has: numbers,
 * booleans, strings, vectors and maps. MSQ_FILE: it is none, it is cut, or it holds something else. */
msq_status msq_flexbuffer_parse(msq_json *json, const uint8_t *content, size_t size);

#endif
