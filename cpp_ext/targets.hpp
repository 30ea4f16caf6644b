// What differs between compilers and processors, in one place. Knows nothing of images or Python.
#pragma once

#include <cfloat>
#include <cstdlib>  // defines __GLIBC__ where it applies

// The kernels promise the same bytes everywhere; x87 arithmetic with hidden extra precision would break that.
static_assert(FLT_EVAL_METHOD == 0, "build with SSE2 (or any) arithmetic that rounds every float operation to float");
static_assert(sizeof(float) == 4 && FLT_MANT_DIG == 24 && sizeof(double) == 8 && DBL_MANT_DIG == 53,
              "IEEE float and double are needed");

// Compiles a hot loop twice, for plain x86-64 and for AVX2, and lets the loader choose. It needs ifunc support, which
// GNU/Linux with glibc has; elsewhere (macOS, musl, Windows, ARM) the baseline loop is used.
#if defined(__has_attribute) && !defined(LITE_INFER_NO_MULTIVERSION)
#if __has_attribute(target_clones) && defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define LITE_INFER_MULTIVERSION __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef LITE_INFER_MULTIVERSION
#define LITE_INFER_MULTIVERSION
#endif

// Helpers of a multiversioned loop must be inlined into it, or they would run as baseline code.
#if defined(_MSC_VER)
#define LITE_INFER_INLINE __forceinline
#define LITE_INFER_RESTRICT __restrict
#else
#define LITE_INFER_INLINE inline __attribute__((always_inline))
#define LITE_INFER_RESTRICT __restrict__
#endif

// Part of every x86-64 processor, so it needs no run-time check.
#if (defined(__x86_64__) && defined(__SSE2__)) || defined(_M_X64)
#include <emmintrin.h>
#define LITE_INFER_SSE2
#endif
