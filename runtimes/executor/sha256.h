/* SHA-256 (FIPS 180-4). */
#ifndef MSQ_SHA256_H
#define MSQ_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* The digest of `size` bytes as 64 hex digits and a 0. */
void msq_sha256(const uint8_t *bytes, size_t size, char hex[65]);

#endif
