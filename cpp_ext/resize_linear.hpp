// Bilinear resizing of uint8 images, pixel centres at half integers.
// The arithmetic (weights in 1/2048, intermediate values in 1/128) is that of OpenCV's INTER_LINEAR for uint8, and, with
// the other rule for positions, of its INTER_AREA where that enlarges; verified against it bit for bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "row_reader.hpp"
#include "targets.hpp"

namespace lite_infer {

struct LinearAxis {
    std::size_t input, output;
    double scale;          // input pixels an output pixel
    double inverse_scale;  // output pixels an input pixel
};

enum class LinearPositions {
    kHalfPixel,  // centres of pixels coincide, as usual
    kArea        // constant inside an input pixel, blending only across its border
};

// The sample at or before a position, which may lie outside the image, and the weights of it and the next in 1/2048.
struct LinearTap {
    std::int64_t first;
    std::int16_t weights[2];
};

constexpr std::int16_t kLinearOne = 2048;

inline LinearTap linear_tap(const LinearAxis& axis, LinearPositions positions, std::size_t index) {
    const auto x = static_cast<double>(index);
    float fraction;
    std::int64_t first;
    if (positions == LinearPositions::kHalfPixel) {
        const auto position = static_cast<float>((x + 0.5) * axis.scale - 0.5);
        first = static_cast<std::int64_t>(std::floor(position));
        fraction = position - static_cast<float>(first);
    } else {
        first = static_cast<std::int64_t>(std::floor(x * axis.scale));
        fraction = static_cast<float>((x + 1.0) - static_cast<double>(first + 1) * axis.inverse_scale);
        fraction = fraction <= 0.0F ? 0.0F : fraction - std::floor(fraction);
    }
    const float one = kLinearOne;
    return {first,
            {static_cast<std::int16_t>(std::nearbyint((1.0F - fraction) * one)),
             static_cast<std::int16_t>(std::nearbyint(fraction * one))}};
}

// Columns: outside the first and last sample the weights are exactly (1, 0) or (0, 1). The two samples are neighbours,
// so only the first is stored. (Rows keep their weights there and read the border row twice, which shows in the last
// bit because each half is truncated by itself; OpenCV treats the two directions differently, and so must this.)
struct LinearColumns {
    std::vector<std::uint32_t> first;
    std::vector<std::int16_t> weights;  // two an output column
    std::size_t input;
};

inline LinearColumns linear_columns(const LinearAxis& axis, LinearPositions positions) {
    LinearColumns columns{std::vector<std::uint32_t>(axis.output), std::vector<std::int16_t>(2 * axis.output),
                          axis.input};
    const auto last = static_cast<std::int64_t>(axis.input) - 1;
    for (std::size_t x = 0; x < axis.output; ++x) {
        const LinearTap tap = linear_tap(axis, positions, x);
        const bool before = tap.first < 0 || last == 0;
        const bool after = !before && tap.first >= last;
        columns.first[x] = before ? 0U : static_cast<std::uint32_t>(after ? last - 1 : tap.first);
        columns.weights[2 * x] = before ? kLinearOne : after ? std::int16_t{0} : tap.weights[0];
        columns.weights[2 * x + 1] = before ? std::int16_t{0} : after ? kLinearOne : tap.weights[1];
    }
    return columns;
}

// Outputs [from, to) of one row, in 1/128 grey level. 255 * 2049 >> 4 = 32655 fits 16 bits; 2049 because both weights
// may round up.
template <std::size_t Channels>
LITE_INFER_INLINE void linear_row_plain(const std::uint8_t* row, const LinearColumns& columns, std::size_t from,
                                        std::size_t to, std::int16_t* out) {
    const std::size_t next = columns.input > 1 ? Channels : 0;
    for (std::size_t x = from; x < to; ++x) {
        const std::uint8_t* first = row + columns.first[x] * Channels;
        for (std::size_t c = 0; c < Channels; ++c) {
            out[x * Channels + c] = static_cast<std::int16_t>(
                (first[c] * columns.weights[2 * x] + first[c + next] * columns.weights[2 * x + 1]) >> 4);
        }
    }
}

#ifdef LITE_INFER_SSE2
// Four outputs a step: pairs of neighbours against pairs of weights.
inline std::size_t linear_row_grey(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {
    const std::size_t count = columns.input > 1 ? columns.first.size() / 4 * 4 : 0;
    for (std::size_t x = 0; x < count; x += 4) {
        std::uint16_t pairs[4];
        for (std::size_t k = 0; k < 4; ++k) {
            std::memcpy(&pairs[k], row + columns.first[x + k], sizeof pairs[k]);
        }
        const std::uint64_t packed = std::uint64_t{pairs[0]} | std::uint64_t{pairs[1]} << 16 |
                                     std::uint64_t{pairs[2]} << 32 | std::uint64_t{pairs[3]} << 48;
        const __m128i samples = _mm_unpacklo_epi8(_mm_cvtsi64_si128(static_cast<std::int64_t>(packed)),
                                                  _mm_setzero_si128());
        const __m128i weights = _mm_loadu_si128(reinterpret_cast<const __m128i*>(columns.weights.data() + 2 * x));
        const __m128i sums = _mm_srai_epi32(_mm_madd_epi16(samples, weights), 4);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + x), _mm_packs_epi32(sums, sums));
    }
    return count;
}

// One pixel of 3 or 4 channels a step. Reads and writes 4 channels, so pixels next to the end of the row are left out.
template <std::size_t Channels>
std::size_t linear_row_colour(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {
    std::size_t x = 0;
    for (; x + 1 < columns.first.size() && columns.first[x] + 2 < columns.input; ++x) {
        std::int32_t first, second, weights;
        std::memcpy(&first, row + columns.first[x] * Channels, sizeof first);
        std::memcpy(&second, row + (columns.first[x] + 1) * Channels, sizeof second);
        std::memcpy(&weights, columns.weights.data() + 2 * x, sizeof weights);
        const __m128i pairs = _mm_unpacklo_epi8(_mm_cvtsi32_si128(first), _mm_cvtsi32_si128(second));
        const __m128i samples = _mm_unpacklo_epi8(pairs, _mm_setzero_si128());
        const __m128i sums = _mm_srai_epi32(_mm_madd_epi16(samples, _mm_set1_epi32(weights)), 4);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + x * Channels), _mm_packs_epi32(sums, sums));
    }
    return x;
}
#endif

template <std::size_t Channels>
void linear_row(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {
    std::size_t done = 0;
#ifdef LITE_INFER_SSE2
    if constexpr (Channels == 1) {
        done = linear_row_grey(row, columns, out);
    } else if constexpr (Channels >= 3) {
        done = linear_row_colour<Channels>(row, columns, out);
    }
#endif
    linear_row_plain<Channels>(row, columns, done, columns.first.size(), out);
}

LITE_INFER_MULTIVERSION static void linear_blend_rows(const std::int16_t* LITE_INFER_RESTRICT upper,
                                                      const std::int16_t* LITE_INFER_RESTRICT lower,
                                                      std::int16_t upper_weight, std::int16_t lower_weight,
                                                      std::uint8_t* LITE_INFER_RESTRICT out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const auto above = static_cast<std::int16_t>((upper[i] * upper_weight) >> 16);
        const auto below = static_cast<std::int16_t>((lower[i] * lower_weight) >> 16);
        out[i] = static_cast<std::uint8_t>(static_cast<std::int16_t>(above + below + 2) >> 2);
    }
}

template <std::size_t Channels>
void resize_linear(RowReader& rows, const LinearAxis& down, const LinearAxis& across, LinearPositions positions,
                   std::uint8_t* out) {
    const LinearColumns columns = linear_columns(across, positions);
    const std::size_t count = across.output * Channels;
    const auto last = static_cast<std::int64_t>(down.input) - 1;
    std::vector<std::int16_t> held[2] = {std::vector<std::int16_t>(count), std::vector<std::int16_t>(count)};
    std::int64_t held_row[2] = {-1, -1};
    const auto hold = [&](std::size_t slot, std::int64_t row) {
        if (held_row[slot] != row) {
            linear_row<Channels>(rows.row(static_cast<std::size_t>(row)), columns, held[slot].data());
            held_row[slot] = row;
        }
    };
    for (std::size_t y = 0; y < down.output; ++y, out += count) {
        const LinearTap tap = linear_tap(down, positions, y);
        const std::int64_t upper = std::clamp<std::int64_t>(tap.first, 0, last);
        const std::int64_t lower = std::clamp<std::int64_t>(tap.first + 1, 0, last);
        if (upper == held_row[1]) {  // moved down by one: the lower row is now the upper one
            std::swap(held[0], held[1]);
            std::swap(held_row[0], held_row[1]);
        }
        hold(0, upper);
        const std::size_t lower_slot = lower == upper ? 0 : 1;
        hold(lower_slot, lower);
        linear_blend_rows(held[0].data(), held[lower_slot].data(), tap.weights[0], tap.weights[1], out, count);
    }
}

}  // namespace lite_infer
