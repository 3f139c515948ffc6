// xxHash's choice between SSE2, AVX2 and AVX-512, made at the first call. Nothing on other machines.
#ifdef __x86_64__
#include <xxh_x86dispatch.c>
#endif
