// Bilinear interpolation of float maps, pixel centres at half integers (align_corners = False), in float32.
// The positions are those of torch.nn.functional.interpolate; knows nothing of thresholds or Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "targets.hpp"

namespace lite_infer {

// Neighbours and weights of every output position along one axis, as arrays so that loops over them vectorise.
struct BilinearAxis {
    std::vector<std::int32_t> first, second;
    std::vector<float> first_weight, second_weight;
};

inline BilinearAxis bilinear_axis(std::size_t input_side, std::size_t output_side) {
    BilinearAxis axis;
    axis.first.resize(output_side);
    axis.second.resize(output_side);
    axis.first_weight.resize(output_side);
    axis.second_weight.resize(output_side);
    const float scale = static_cast<float>(input_side) / static_cast<float>(output_side);
    const auto last = static_cast<std::int32_t>(input_side) - 1;
    for (std::size_t i = 0; i < output_side; ++i) {
        // Fused on purpose, as in the reference: two roundings move the position by up to 1e-5 pixels.
        const float position = std::max(std::fma(scale, static_cast<float>(i) + 0.5F, -0.5F), 0.0F);
        const std::int32_t first = std::min(static_cast<std::int32_t>(position), last);
        const float fraction = std::clamp(position - static_cast<float>(first), 0.0F, 1.0F);
        axis.first[i] = first;
        axis.second[i] = std::min(first + 1, last);
        axis.first_weight[i] = 1.0F - fraction;
        axis.second_weight[i] = fraction;
    }
    return axis;
}

// Interpolates positions [from, to) of one row.
LITE_INFER_MULTIVERSION static void bilinear_stretch(const float* LITE_INFER_RESTRICT row, const BilinearAxis& axis,
                                                     std::size_t from, std::size_t to, float* LITE_INFER_RESTRICT out) {
    const std::int32_t* LITE_INFER_RESTRICT first = axis.first.data();
    const std::int32_t* LITE_INFER_RESTRICT second = axis.second.data();
    const float* LITE_INFER_RESTRICT first_weight = axis.first_weight.data();
    const float* LITE_INFER_RESTRICT second_weight = axis.second_weight.data();
    for (std::size_t x = from; x < to; ++x) {
        out[x] = row[first[x]] * first_weight[x] + row[second[x]] * second_weight[x];
    }
}

LITE_INFER_MULTIVERSION static void bilinear_blend(const float* LITE_INFER_RESTRICT upper,
                                                   const float* LITE_INFER_RESTRICT lower, float upper_weight,
                                                   float lower_weight, float* LITE_INFER_RESTRICT out,
                                                   std::size_t count) {
    for (std::size_t x = 0; x < count; ++x) {
        out[x] = upper[x] * upper_weight + lower[x] * lower_weight;
    }
}

struct ColumnRange {
    std::size_t from, to;  // half open
};

// The two stretched rows around an output row; each is stretched once, and only over the columns asked for.
class StretchedRows {
public:
    StretchedRows(const float* map, std::size_t row_stride, const BilinearAxis& across)
        : map_(map), row_stride_(row_stride), across_(across) {
        rows_[0].resize(across.first.size());
        rows_[1].resize(across.first.size());
    }

    // The range asked for an input row must be the same every time.
    void select(std::int32_t upper, ColumnRange upper_range, std::int32_t lower, ColumnRange lower_range) {
        if (upper == held_[1]) {
            std::swap(rows_[0], rows_[1]);
            std::swap(held_[0], held_[1]);
        }
        fill(0, upper, upper_range);
        lower_ = lower == upper ? 0 : 1;
        fill(lower_, lower, lower_range);
    }

    const float* upper() const { return rows_[0].data(); }
    const float* lower() const { return rows_[lower_].data(); }

private:
    void fill(std::size_t slot, std::int32_t row, ColumnRange range) {
        if (held_[slot] != row) {
            bilinear_stretch(map_ + static_cast<std::size_t>(row) * row_stride_, across_, range.from, range.to,
                             rows_[slot].data());
            held_[slot] = row;
        }
    }

    const float* map_;
    std::size_t row_stride_;
    const BilinearAxis& across_;
    std::vector<float> rows_[2];
    std::int32_t held_[2] = {-1, -1};
    std::size_t lower_ = 0;
};

}  // namespace lite_infer
