// logits_to_masks: crop, enlarge bilinearly, threshold, box and area in one pass; the enlarged map is never stored.
// Work is limited to the columns and rows where a pixel above the threshold is possible.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "bilinear.hpp"
#include "checks.hpp"
#include "mask_box.hpp"
#include "targets.hpp"

namespace lite_infer {

struct Threshold {
    float value;
    bool inclusive;  // at the threshold counts as above
};

// Where all four neighbours are at or below this, rounding included, the interpolated value is not above the threshold:
// rounding is monotone and moves a weighted mean of equal values by less than 1e-6 of them. At threshold 0 no margin is
// needed (a sum of products that are not positive is not positive), so a background of exactly 0 is skipped as well.
inline float hopeless_level(const Threshold& threshold) {
    if (threshold.value == 0.0F && !threshold.inclusive) {
        return 0.0F;
    }
    return threshold.value - 1e-6F * std::fabs(threshold.value) - 1e-30F;
}

LITE_INFER_MULTIVERSION static bool any_above(const float* row, std::size_t count, float level) {
    std::uint32_t above = 0;
    for (std::size_t x = 0; x < count; ++x) {
        above |= row[x] > level ? 1U : 0U;  // NaN is not above
    }
    return above != 0;
}

// First and last column above the level, as a half-open range; empty as {count, 0}, the neutral element of `join`.
inline ColumnRange support_of_row(const float* row, std::size_t count, float level) {
    if (!any_above(row, count, level)) {
        return {count, 0};
    }
    std::size_t from = 0;
    while (!(row[from] > level)) {
        ++from;
    }
    std::size_t to = count;
    while (!(row[to - 1] > level)) {
        --to;
    }
    return {from, to};
}

inline ColumnRange join(ColumnRange a, ColumnRange b) { return {std::min(a.from, b.from), std::max(a.to, b.to)}; }

// Turns a range of input columns into the output columns that read any of them.
struct ColumnReach {
    explicit ColumnReach(const BilinearAxis& across, std::size_t columns) : from(columns + 1), to(columns + 1) {
        const std::size_t output = across.first.size();
        std::size_t x = 0;
        for (std::size_t column = 0; column < columns; ++column) {  // first x whose second neighbour is at least column
            while (x < output && static_cast<std::size_t>(across.second[x]) < column) {
                ++x;
            }
            from[column] = x;
        }
        x = 0;
        for (std::size_t column = 0; column < columns; ++column) {  // end of the x whose first neighbour is at most column
            while (x < output && static_cast<std::size_t>(across.first[x]) <= column) {
                ++x;
            }
            to[column + 1] = x;
        }
    }

    ColumnRange of(ColumnRange input) const {
        if (input.from >= input.to) {
            return {0, 0};
        }
        return {from[input.from], std::max(from[input.from], to[input.to])};
    }

    std::vector<std::size_t> from, to;
};

template <bool Inclusive>
LITE_INFER_INLINE void threshold_loop(const float* LITE_INFER_RESTRICT upper, const float* LITE_INFER_RESTRICT lower,
                                      float upper_weight, float lower_weight, float threshold,
                                      std::uint8_t* LITE_INFER_RESTRICT mask, std::size_t count) {
    for (std::size_t x = 0; x < count; ++x) {
        const float value = upper[x] * upper_weight + lower[x] * lower_weight;
        mask[x] = (Inclusive ? value >= threshold : value > threshold) ? 1 : 0;
    }
}

LITE_INFER_MULTIVERSION static void threshold_row(const float* upper, const float* lower, float upper_weight,
                                                  float lower_weight, const Threshold& threshold, std::uint8_t* mask,
                                                  std::size_t count) {
    if (threshold.inclusive) {
        threshold_loop<true>(upper, lower, upper_weight, lower_weight, threshold.value, mask, count);
    } else {
        threshold_loop<false>(upper, lower, upper_weight, lower_weight, threshold.value, mask, count);
    }
}

struct CroppedMap {
    const float* values;
    std::size_t row_stride, rows, columns;  // rows and columns of the part that is kept
};

// What all maps of a call share.
struct MaskPlan {
    BilinearAxis down, across;
    ColumnReach reach;
    Threshold threshold;
};

inline BoxTracker fill_mask(const CroppedMap& map, const MaskPlan& plan, std::uint8_t* mask) {
    const float level = hopeless_level(plan.threshold);
    std::vector<ColumnRange> support(map.rows);
    for (std::size_t y = 0; y < map.rows; ++y) {
        support[y] = support_of_row(map.values + y * map.row_stride, map.columns, level);
    }
    // A row is blended with the one above or below it, so it is stretched over what any of the three needs.
    const auto stretch_range = [&](std::int32_t row) {
        const auto y = static_cast<std::size_t>(row);
        ColumnRange range = support[y];
        range = y > 0 ? join(range, support[y - 1]) : range;
        range = y + 1 < map.rows ? join(range, support[y + 1]) : range;
        return plan.reach.of(range);
    };
    StretchedRows rows(map.values, map.row_stride, plan.across);
    const std::size_t columns = plan.across.first.size();
    BoxTracker box;
    for (std::size_t y = 0; y < plan.down.first.size(); ++y, mask += columns) {
        const std::int32_t upper = plan.down.first[y];
        const std::int32_t lower = plan.down.second[y];
        const ColumnRange range = plan.reach.of(
            join(support[static_cast<std::size_t>(upper)], support[static_cast<std::size_t>(lower)]));
        std::memset(mask, 0, columns);
        if (range.from >= range.to) {
            continue;
        }
        rows.select(upper, stretch_range(upper), lower, stretch_range(lower));
        threshold_row(rows.upper() + range.from, rows.lower() + range.from, plan.down.first_weight[y],
                      plan.down.second_weight[y], plan.threshold, mask + range.from, range.to - range.from);
        box.add_row(mask, range.from, range.to, y);
    }
    return box;
}

using Masks = std::tuple<Array<bool>, Array<std::int64_t>, Array<std::int64_t>>;

// (N, h, w) -> masks (N, H, W), boxes xyxy (N, 4) with -1 where a mask is empty, areas (N,)
inline Masks logits_to_masks(const Array<float>& logits, const Size& crop, const Size& size, double threshold,
                             bool inclusive) {
    check_stack(logits, "logits");
    check_size(crop, "crop");
    check_size(size, "size");
    check_finite(threshold, "threshold");
    if (crop[0] > logits.shape(1) || crop[1] > logits.shape(2)) {
        throw py::value_error("crop: " + std::to_string(crop[0]) + " x " + std::to_string(crop[1]) +
                              " exceeds logits of shape " + shape_text(logits));
    }
    const std::size_t plane = checked_product(size[0], size[1], 1, "size");
    checked_product(logits.shape(0), static_cast<std::int64_t>(plane), 1, "size");
    const auto value = static_cast<float>(threshold);
    check_finite(static_cast<double>(value), "threshold");
    Array<bool> masks(std::vector<py::ssize_t>{logits.shape(0), size[0], size[1]});
    Array<std::int64_t> boxes(std::vector<py::ssize_t>{logits.shape(0), 4});
    Array<std::int64_t> areas(logits.shape(0));
    const auto count = static_cast<std::size_t>(logits.shape(0));
    const auto row_stride = static_cast<std::size_t>(logits.shape(2));
    const std::size_t map_values = static_cast<std::size_t>(logits.shape(1)) * row_stride;
    const float* in = logits.data();
    auto* mask = reinterpret_cast<std::uint8_t*>(masks.mutable_data());
    std::int64_t* box = boxes.mutable_data();
    std::int64_t* area = areas.mutable_data();
    {
        // Safe: `in` is memory of `logits`, the others of new arrays held here; no Python object is touched.
        py::gil_scoped_release release;
        const auto crop_rows = static_cast<std::size_t>(crop[0]);
        const auto crop_columns = static_cast<std::size_t>(crop[1]);
        BilinearAxis across = bilinear_axis(crop_columns, static_cast<std::size_t>(size[1]));
        ColumnReach reach(across, crop_columns);
        const MaskPlan plan{bilinear_axis(crop_rows, static_cast<std::size_t>(size[0])), std::move(across),
                            std::move(reach), Threshold{value, inclusive}};
        for (std::size_t n = 0; n < count; ++n) {
            const BoxTracker found =
                fill_mask({in + n * map_values, row_stride, crop_rows, crop_columns}, plan, mask + n * plane);
            found.write(box + n * 4);
            area[n] = found.area;
        }
    }
    return {masks, boxes, areas};
}

}  // namespace lite_infer
