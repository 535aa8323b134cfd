/* The compiler and the C library, as lwIP wants to know them. */
#ifndef ZKS_ARCH_CC_H
#define ZKS_ARCH_CC_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(_WIN32)
#define LWIP_NO_UNISTD_H 1
#define BYTE_ORDER LITTLE_ENDIAN
#elif !defined(BYTE_ORDER)
#include <sys/param.h>
#endif

/* errno numbers are the system's. */
#include <errno.h>
#define LWIP_ERRNO_INCLUDE <errno.h>

void *zks_mem_malloc(size_t size);
void *zks_mem_calloc(size_t count, size_t size);
void zks_mem_free(void *block);
uint32_t zks_rand32(void);
void zks_assert_failed(const char *message, const char *file, int line);

#define LWIP_RAND() zks_rand32()
#define LWIP_PLATFORM_DIAG(x) ((void)0)
#define LWIP_PLATFORM_ASSERT(message) zks_assert_failed(message, __FILE__, __LINE__)

#if defined(_MSC_VER)
#define PACK_STRUCT_USE_INCLUDES
#endif

#endif
