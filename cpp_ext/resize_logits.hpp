// resize_logits: a stack of float maps, resized bilinearly. For systems that enlarge logits in two steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bilinear.hpp"
#include "checks.hpp"

namespace lite_infer {

inline void resize_map(const float* map, std::size_t row_stride, const BilinearAxis& down, const BilinearAxis& across,
                       float* out) {
    StretchedRows rows(map, row_stride, across);
    const std::size_t columns = across.first.size();
    for (std::size_t y = 0; y < down.first.size(); ++y, out += columns) {
        rows.select(down.first[y], {0, columns}, down.second[y], {0, columns});
        bilinear_blend(rows.upper(), rows.lower(), down.first_weight[y], down.second_weight[y], out, columns);
    }
}

// (N, h, w) -> (N, H, W)
inline Array<float> resize_logits(const Array<float>& logits, const Size& size) {
    check_stack(logits, "logits");
    check_size(size, "size");
    const std::size_t plane = checked_product(size[0], size[1], sizeof(float), "size");
    checked_product(logits.shape(0), static_cast<std::int64_t>(plane), sizeof(float), "size");
    Array<float> resized(std::vector<py::ssize_t>{logits.shape(0), size[0], size[1]});
    const auto count = static_cast<std::size_t>(logits.shape(0));
    const auto rows = static_cast<std::size_t>(logits.shape(1));
    const auto columns = static_cast<std::size_t>(logits.shape(2));
    const float* in = logits.data();
    float* out = resized.mutable_data();
    {
        // Safe: `in` is memory of `logits`, `out` of `resized`; no Python object is touched.
        py::gil_scoped_release release;
        const BilinearAxis down = bilinear_axis(rows, static_cast<std::size_t>(size[0]));
        const BilinearAxis across = bilinear_axis(columns, static_cast<std::size_t>(size[1]));
        for (std::size_t n = 0; n < count; ++n) {
            resize_map(in + n * rows * columns, columns, down, across, out + n * plane);
        }
    }
    return resized;
}

}  // namespace lite_infer
