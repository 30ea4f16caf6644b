// Half-precision floats to single precision and back, by integer arithmetic that compilers vectorise; numpy takes them
// one by one. As numpy converts: rounded to nearest, ties to even, beyond the largest half to infinity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "checks.hpp"
#include "targets.hpp"

namespace lite_infer {

LITE_INFER_INLINE std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

LITE_INFER_INLINE float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Exponent and fraction move to their places and the bias is corrected. A subnormal half has no leading one: given one,
// it is a normal float that is too large by exactly that one, 2^-14.
LITE_INFER_INLINE float widened(std::uint32_t half) {
    constexpr std::uint32_t exponent = 0x7C00U << 13, bias = (127U - 15U) << 23, one = 1U << 23;
    const std::uint32_t shifted = (half & 0x7FFFU) << 13;
    const std::uint32_t at = shifted & exponent;
    const std::uint32_t normal = shifted + bias + (at == exponent ? bias : 0U);  // infinity and NaN keep all ones
    const std::uint32_t subnormal = bits_of(float_of(shifted + bias + one) - float_of(bias + one));
    return float_of((at == 0U ? subnormal : normal) | (half & 0x8000U) << 16);
}

LITE_INFER_INLINE std::uint16_t narrowed(float value) {
    constexpr std::uint32_t infinity = 0xFFU << 23, too_large = (127U + 16U) << 23, normal_from = (127U - 14U) << 23;
    constexpr std::uint32_t unit = (127U - 1U) << 23;  // 0.5: adding it rounds to multiples of the smallest half, 2^-24
    const std::uint32_t all = bits_of(value);
    const std::uint32_t magnitude = all & 0x7FFFFFFFU;
    const std::uint32_t rounded = magnitude - ((127U - 15U) << 23) + 0xFFFU + (magnitude >> 13 & 1U);
    const std::uint32_t subnormal = bits_of(float_of(magnitude) + float_of(unit)) - unit;
    std::uint32_t half = magnitude < normal_from ? subnormal : rounded >> 13;
    half = magnitude >= too_large ? 0x7C00U : half;
    half = magnitude > infinity ? 0x7E00U : half;
    return static_cast<std::uint16_t>(half | all >> 31 << 15);
}

LITE_INFER_MULTIVERSION
inline void widen(const std::uint16_t* LITE_INFER_RESTRICT in, float* LITE_INFER_RESTRICT out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = widened(in[i]);
    }
}

LITE_INFER_MULTIVERSION
inline void narrow(const float* LITE_INFER_RESTRICT in, std::uint16_t* LITE_INFER_RESTRICT out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = narrowed(in[i]);
    }
}

inline std::vector<py::ssize_t> shape_of(const py::array& array) {
    return {array.shape(), array.shape() + array.ndim()};
}

// The bits of halves -> floats, in the same shape.
inline Array<float> half_to_float(const Array<std::uint16_t>& bits) {
    check_aligned(bits, "bits");
    Array<float> wide(shape_of(bits));
    const std::uint16_t* in = bits.data();
    float* out = wide.mutable_data();
    const auto count = static_cast<std::size_t>(bits.size());
    {
        py::gil_scoped_release release;  // safe: `in` is memory of `bits`, `out` of `wide`
        widen(in, out, count);
    }
    return wide;
}

// Floats -> halves, in the same shape; an array that owns its memory, as the embedding cache wants it.
inline py::array float_to_half(const Array<float>& values) {
    check_aligned(values, "values");
    py::array halves(py::dtype("e"), shape_of(values));
    const float* in = values.data();
    auto* out = static_cast<std::uint16_t*>(halves.mutable_data());
    const auto count = static_cast<std::size_t>(values.size());
    {
        py::gil_scoped_release release;  // safe: `in` is memory of `values`, `out` of `halves`
        narrow(in, out, count);
    }
    return halves;
}

}  // namespace lite_infer
