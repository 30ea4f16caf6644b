// What the CPU has for 8-bit and bfloat16 products, in silicon and enabled by the operating system; reads no array and
// keeps no state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#if defined(_M_X64) || defined(_M_IX86)
#include <intrin.h>
#define LITE_INFER_X86
#elif defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#define LITE_INFER_X86
#elif defined(_M_ARM64)
#include <windows.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lite_infer {

#if defined(LITE_INFER_X86)

struct CpuidRegisters {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline CpuidRegisters cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
    CpuidRegisters found;
#if defined(_MSC_VER)
    int values[4];
    __cpuid(values, 0);
    if (static_cast<std::uint32_t>(values[0]) < leaf) {
        return found;
    }
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    found = {static_cast<std::uint32_t>(values[0]), static_cast<std::uint32_t>(values[1]),
             static_cast<std::uint32_t>(values[2]), static_cast<std::uint32_t>(values[3])};
#else
    if (__get_cpuid_count(leaf, subleaf, &found.eax, &found.ebx, &found.ecx, &found.edx) == 0) {
        return {};
    }
#endif
    return found;
}

// Register states that the operating system saves: bit 1 SSE, 2 AVX, 5 to 7 AVX-512, 17 and 18 the tiles of AMX.
inline std::uint64_t saved_states() {
    constexpr std::uint32_t osxsave = 1U << 27;
    if ((cpuid(1, 0).ecx & osxsave) == 0) {
        return 0;
    }
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    std::uint32_t low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
#endif
}

// Names as Linux writes them: avx512_vnni, avx_vnni.
inline std::vector<std::string> int8_units() {
    constexpr std::uint64_t avx = 0x6, avx512 = 0xE6;
    const std::uint64_t states = saved_states();
    const CpuidRegisters extended = cpuid(7, 0);
    std::vector<std::string> found;
    const bool has_avx512vl = (extended.ebx >> 31 & 1) != 0;
    if ((extended.ecx >> 11 & 1) != 0 && has_avx512vl && (states & avx512) == avx512) {
        found.emplace_back("avx512_vnni");
    }
    if (extended.eax >= 1 && (cpuid(7, 1).eax >> 4 & 1) != 0 && (states & avx) == avx) {
        found.emplace_back("avx_vnni");
    }
    return found;
}

// What multiplies bfloat16 faster than float32: amx, or avx512_bf16 where AMD made it; empty where nothing does.
inline std::string bf16_unit() {
    constexpr std::uint64_t avx512 = 0xE6, tiles = 0x60000;
    const std::uint64_t states = saved_states();
    const CpuidRegisters maker = cpuid(0, 0), extended = cpuid(7, 0);
    if ((extended.edx >> 22 & 1) != 0 && (states & tiles) == tiles) {
        return "amx";
    }
    const bool is_amd = maker.ebx == 0x68747541 && maker.edx == 0x69746e65 && maker.ecx == 0x444d4163;  // AuthenticAMD
    const bool has_avx512_bf16 = extended.eax >= 1 && (cpuid(7, 1).eax >> 5 & 1) != 0 && (states & avx512) == avx512;
    return is_amd && has_avx512_bf16 ? "avx512_bf16" : "";
}

#else

inline std::string bf16_unit() { return {}; }

// Name as Linux writes it: asimddp, the dot products of ARM.
inline std::vector<std::string> int8_units() {
    bool has_products = false;
#if defined(_M_ARM64)
    constexpr DWORD dot_products = 43;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; older headers lack the name
    has_products = IsProcessorFeaturePresent(dot_products) != 0;
#elif defined(__aarch64__) && defined(__APPLE__)
    std::int32_t value = 0;
    std::size_t size = sizeof value;
    has_products = sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#elif defined(__aarch64__) && defined(__linux__)
    constexpr unsigned long dot_products = 1UL << 20;  // HWCAP_ASIMDDP
    has_products = (getauxval(AT_HWCAP) & dot_products) != 0;
#endif
    return has_products ? std::vector<std::string>{"asimddp"} : std::vector<std::string>{};
}

#endif

}  // namespace lite_infer
