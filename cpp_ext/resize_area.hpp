// Area-averaging reduction of uint8 images: each output pixel is the mean of the input cell it covers.
// The arithmetic (float32, order of additions, rounding half to even) is that of OpenCV's INTER_AREA for uint8 and is
// verified against it bit for bit. Knows nothing of Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "row_reader.hpp"
#include "targets.hpp"

namespace lite_infer {

// What one output pixel covers along one axis: a fraction of `lead`, all of [begin, end), a fraction of `tail`.
// A fraction that is absent has weight 0, which adds exactly nothing.
struct AreaCell {
    std::size_t lead, begin, end, tail;
    float lead_weight, inner_weight, tail_weight;
};

inline std::vector<AreaCell> area_cells(std::size_t input_side, std::size_t output_side, double scale) {
    constexpr double kNegligible = 1e-3;  // thinner slivers of a pixel are left out
    std::vector<AreaCell> cells(output_side);
    for (std::size_t i = 0; i < output_side; ++i) {
        const double from = static_cast<double>(i) * scale;
        const double to = from + scale;
        const double width = std::min(scale, static_cast<double>(input_side) - from);
        const double end = std::min(std::floor(to), static_cast<double>(input_side) - 1.0);
        const double begin = std::min(std::ceil(from), end);
        AreaCell& cell = cells[i];
        cell.begin = static_cast<std::size_t>(begin);
        cell.end = static_cast<std::size_t>(end);
        cell.lead = cell.begin > 0 ? cell.begin - 1 : 0;
        cell.tail = cell.end;
        const double lead = begin - from;
        const double tail = to - end;
        cell.lead_weight = lead > kNegligible ? static_cast<float>(lead / width) : 0.0F;
        cell.inner_weight = static_cast<float>(1.0 / width);
        cell.tail_weight = tail > kNegligible ? static_cast<float>(std::min(std::min(tail, 1.0), width) / width) : 0.0F;
    }
    return cells;
}

// Rounds half to even without a library call, so that loops vectorise. Needs 0 <= value <= 255.
LITE_INFER_INLINE std::uint8_t round_level(float value) {
    const float shifted = value + 12582912.0F;  // 1.5 * 2^23: the sum keeps no fraction bits
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<std::uint8_t>(bits & 0xFFU);
}

LITE_INFER_MULTIVERSION static void area_weigh_row(const std::uint8_t* LITE_INFER_RESTRICT in,
                                                   float* LITE_INFER_RESTRICT out, std::size_t count, float weight) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(static_cast<std::int32_t>(in[i])) * weight;
    }
}

LITE_INFER_MULTIVERSION static void area_first_row(const float* LITE_INFER_RESTRICT row, float* LITE_INFER_RESTRICT sum,
                                                   std::size_t count, float weight) {
    for (std::size_t i = 0; i < count; ++i) {
        sum[i] = row[i] * weight;
    }
}

LITE_INFER_MULTIVERSION static void area_next_row(const float* LITE_INFER_RESTRICT row, float* LITE_INFER_RESTRICT sum,
                                                  std::size_t count, float weight) {
    for (std::size_t i = 0; i < count; ++i) {
        sum[i] += row[i] * weight;
    }
}

LITE_INFER_MULTIVERSION static void area_round_row(const float* LITE_INFER_RESTRICT sum,
                                                   std::uint8_t* LITE_INFER_RESTRICT out, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = round_level(sum[i] < 255.0F ? sum[i] : 255.0F);
    }
}

// One row reduced to the output width. `weighed` holds the row times `common_weight`, the inner weight of (nearly)
// every cell, so that an inner pixel costs one addition.
template <std::size_t Channels>
void area_reduce_row(const std::uint8_t* row, const float* weighed, float common_weight,
                     const std::vector<AreaCell>& cells, float* out) {
    for (const AreaCell& cell : cells) {
        float sum[Channels];
        const std::uint8_t* lead = row + cell.lead * Channels;
        for (std::size_t c = 0; c < Channels; ++c) {
            sum[c] = static_cast<float>(lead[c]) * cell.lead_weight;
        }
        if (cell.inner_weight == common_weight) {
            for (const float* inner = weighed + cell.begin * Channels; inner < weighed + cell.end * Channels;
                 inner += Channels) {
                for (std::size_t c = 0; c < Channels; ++c) {
                    sum[c] += inner[c];
                }
            }
        } else {
            for (std::size_t x = cell.begin; x < cell.end; ++x) {
                for (std::size_t c = 0; c < Channels; ++c) {
                    sum[c] += static_cast<float>(row[x * Channels + c]) * cell.inner_weight;
                }
            }
        }
        const std::uint8_t* tail = row + cell.tail * Channels;
        for (std::size_t c = 0; c < Channels; ++c) {
            *out++ = sum[c] + static_cast<float>(tail[c]) * cell.tail_weight;
        }
    }
}

struct AreaAxis {
    std::size_t input, output;
    double scale;
};

// Any reduction factors >= 1.
template <std::size_t Channels>
void resize_area(RowReader& rows, const AreaAxis& down, const AreaAxis& across, std::uint8_t* out) {
    const std::vector<AreaCell> row_cells = area_cells(down.input, down.output, down.scale);
    const std::vector<AreaCell> cells = area_cells(across.input, across.output, across.scale);
    const float common_weight = cells.front().inner_weight;
    const std::size_t count = across.output * Channels;
    std::vector<float> weighed(across.input * Channels), reduced(count), sum(count);
    std::size_t held = down.input;  // index of the row in `reduced`; none yet
    for (const AreaCell& cell : row_cells) {
        bool first = true;
        const auto add = [&](std::size_t y, float weight) {
            if (y != held) {
                const std::uint8_t* row = rows.row(y);
                area_weigh_row(row, weighed.data(), weighed.size(), common_weight);
                area_reduce_row<Channels>(row, weighed.data(), common_weight, cells, reduced.data());
                held = y;
            }
            (first ? area_first_row : area_next_row)(reduced.data(), sum.data(), count, weight);
            first = false;
        };
        if (cell.lead_weight > 0.0F) {
            add(cell.lead, cell.lead_weight);
        }
        for (std::size_t y = cell.begin; y < cell.end; ++y) {
            add(y, cell.inner_weight);
        }
        if (cell.tail_weight > 0.0F) {
            add(cell.tail, cell.tail_weight);
        }
        area_round_row(sum.data(), out, count);
        out += count;
    }
}

// Whole-number factors: every output pixel is the mean of a block, and sums of integers need no order.
LITE_INFER_MULTIVERSION static void block_add_row(const std::uint8_t* LITE_INFER_RESTRICT row,
                                                  std::uint16_t* LITE_INFER_RESTRICT sums, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        sums[i] = static_cast<std::uint16_t>(sums[i] + row[i]);
    }
}

LITE_INFER_MULTIVERSION static void block_add_row(const std::uint8_t* LITE_INFER_RESTRICT row,
                                                  std::uint32_t* LITE_INFER_RESTRICT sums, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        sums[i] += row[i];
    }
}

// Sums groups of `Factor` neighbours (`factor` where Factor is 0) and writes their rounded mean.
template <std::size_t Channels, std::size_t Factor, typename Sum>
void block_mean_row(const Sum* LITE_INFER_RESTRICT sums, std::size_t output_side, std::size_t factor, float scale,
                    std::uint8_t* LITE_INFER_RESTRICT out) {
    using Total = typename std::conditional<Factor != 0 && sizeof(Sum) == 2, std::int32_t, std::int64_t>::type;
    const std::size_t group = Factor ? Factor : factor;
    for (std::size_t x = 0; x < output_side; ++x) {
        for (std::size_t c = 0; c < Channels; ++c) {
            Total total = 0;
            for (std::size_t k = 0; k < group; ++k) {
                total += static_cast<Total>(sums[(x * group + k) * Channels + c]);
            }
            const float mean = static_cast<float>(total) * scale;
            out[x * Channels + c] = round_level(mean < 255.0F ? mean : 255.0F);
        }
    }
}

// Blocks of 2 x 2 round half up in integers, not half to even.
template <std::size_t Channels>
LITE_INFER_INLINE void halve_row(const std::uint16_t* LITE_INFER_RESTRICT sums, std::size_t output_side,
                                 std::uint8_t* LITE_INFER_RESTRICT out) {
    for (std::size_t x = 0; x < output_side; ++x) {
        for (std::size_t c = 0; c < Channels; ++c) {
            const std::size_t left = 2 * x * Channels + c;
            out[x * Channels + c] = static_cast<std::uint8_t>((sums[left] + sums[left + Channels] + 2) >> 2);
        }
    }
}

LITE_INFER_MULTIVERSION static void halve_row(const std::uint16_t* sums, std::size_t output_side, std::size_t channels,
                                              std::uint8_t* out) {
    switch (channels) {
        case 1: return halve_row<1>(sums, output_side, out);
        case 3: return halve_row<3>(sums, output_side, out);
        default: return halve_row<4>(sums, output_side, out);
    }
}

template <std::size_t Channels, typename Sum>
void resize_blocks_summed(RowReader& rows, std::size_t output_rows, std::size_t output_columns, std::size_t down,
                          std::size_t across, std::uint8_t* out) {
    std::vector<Sum> sums(output_columns * across * Channels);
    const float scale = 1.0F / static_cast<float>(down * across);
    for (std::size_t y = 0; y < output_rows; ++y, out += output_columns * Channels) {
        std::fill(sums.begin(), sums.end(), Sum{0});
        for (std::size_t k = 0; k < down; ++k) {
            block_add_row(rows.row(y * down + k), sums.data(), sums.size());
        }
        if constexpr (sizeof(Sum) == 2) {
            if (down == 2 && across == 2 && Channels != 2) {  // OpenCV has this rule for 1, 3 and 4 channels
                halve_row(sums.data(), output_columns, Channels, out);
                continue;
            }
        }
        const auto mean_row = across == 2   ? block_mean_row<Channels, 2, Sum>
                              : across == 3 ? block_mean_row<Channels, 3, Sum>
                              : across == 4 ? block_mean_row<Channels, 4, Sum>
                                            : block_mean_row<Channels, 0, Sum>;
        mean_row(sums.data(), output_columns, across, scale, out);
    }
}

template <std::size_t Channels>
void resize_blocks(RowReader& rows, std::size_t output_rows, std::size_t output_columns, std::size_t down,
                   std::size_t across, std::uint8_t* out) {
    constexpr std::size_t kMostRowsIn16Bits = 257;  // 257 * 255 == 65535
    if (down <= kMostRowsIn16Bits) {
        resize_blocks_summed<Channels, std::uint16_t>(rows, output_rows, output_columns, down, across, out);
    } else {
        resize_blocks_summed<Channels, std::uint32_t>(rows, output_rows, output_columns, down, across, out);
    }
}

}  // namespace lite_infer
