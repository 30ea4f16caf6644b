// resize_uint8: chooses the arithmetic for a pair of sizes, exactly as cv2.resize does, and resizes row by row.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "checks.hpp"
#include "resize_area.hpp"
#include "resize_linear.hpp"
#include "row_reader.hpp"

namespace lite_infer {

enum class Interpolation { kArea, kLinear };

inline Interpolation parse_interpolation(const std::string& name) {
    if (name == "area") {
        return Interpolation::kArea;
    }
    if (name == "linear") {
        return Interpolation::kLinear;
    }
    throw py::value_error("interpolation: '" + name + "', wanted 'area' or 'linear'");
}

struct ResizeShape {
    std::size_t input_rows, input_columns, output_rows, output_columns;
};

template <std::size_t Channels>
void resize_rows(RowReader& rows, const ResizeShape& shape, Interpolation interpolation, std::uint8_t* out) {
    if (shape.input_rows == shape.output_rows && shape.input_columns == shape.output_columns) {
        const std::size_t row_values = shape.input_columns * Channels;
        for (std::size_t y = 0; y < shape.input_rows; ++y) {
            std::memcpy(out + y * row_values, rows.row(y), row_values);
        }
        return;
    }
    // The reciprocal of a rounded quotient, not the quotient itself: some whole factors miss their integer by one bit
    // and are then treated as fractions, by OpenCV and so here.
    const double inverse_down = static_cast<double>(shape.output_rows) / static_cast<double>(shape.input_rows);
    const double inverse_across = static_cast<double>(shape.output_columns) / static_cast<double>(shape.input_columns);
    const double down = 1.0 / inverse_down;
    const double across = 1.0 / inverse_across;
    const double whole_down = std::nearbyint(down);
    const double whole_across = std::nearbyint(across);
    const bool whole = std::fabs(down - whole_down) < DBL_EPSILON && std::fabs(across - whole_across) < DBL_EPSILON;
    const bool halves = whole && whole_down == 2.0 && whole_across == 2.0;
    const bool area = interpolation == Interpolation::kArea || halves;  // the two agree on halving
    if (area && down >= 1.0 && across >= 1.0) {
        if (whole) {
            resize_blocks<Channels>(rows, shape.output_rows, shape.output_columns, static_cast<std::size_t>(whole_down),
                                    static_cast<std::size_t>(whole_across), out);
        } else {
            resize_area<Channels>(rows, {shape.input_rows, shape.output_rows, down},
                                  {shape.input_columns, shape.output_columns, across}, out);
        }
        return;
    }
    resize_linear<Channels>(rows, {shape.input_rows, shape.output_rows, down, inverse_down},
                            {shape.input_columns, shape.output_columns, across, inverse_across},
                            area ? LinearPositions::kArea : LinearPositions::kHalfPixel, out);
}

inline void resize_rows(RowReader& rows, const ResizeShape& shape, std::size_t channels, Interpolation interpolation,
                        std::uint8_t* out) {
    switch (channels) {
        case 1: return resize_rows<1>(rows, shape, interpolation, out);
        case 2: return resize_rows<2>(rows, shape, interpolation, out);
        case 3: return resize_rows<3>(rows, shape, interpolation, out);
        default: return resize_rows<4>(rows, shape, interpolation, out);
    }
}

// (rows, columns) or (rows, columns, 1 to 4)
inline std::size_t check_image(const py::array& image) {
    check_shape(image, "image", 2, 3);
    const py::ssize_t channels = image.ndim() == 3 ? image.shape(2) : 1;
    if (channels > 4) {
        throw py::value_error("image: shape " + shape_text(image) + " has " + std::to_string(channels) +
                              " channels, wanted 1 to 4");
    }
    return static_cast<std::size_t>(channels);
}

inline ResizeShape resize_shape(const py::array& image, const Size& size) {
    return {static_cast<std::size_t>(image.shape(0)), static_cast<std::size_t>(image.shape(1)),
            static_cast<std::size_t>(size[0]), static_cast<std::size_t>(size[1])};
}

inline Array<std::uint8_t> resize_uint8(const Array<std::uint8_t>& image, const Size& size,
                                        const std::string& interpolation) {
    const std::size_t channels = check_image(image);
    check_size(size, "size");
    const Interpolation how = parse_interpolation(interpolation);
    checked_product(size[0], size[1], channels, "size");
    std::vector<py::ssize_t> shape{size[0], size[1]};
    if (image.ndim() == 3) {
        shape.push_back(image.shape(2));
    }
    Array<std::uint8_t> resized(shape);
    const ResizeShape sides = resize_shape(image, size);
    PlainRows rows(image.data(), sides.input_columns * channels);
    std::uint8_t* out = resized.mutable_data();
    {
        // Safe: `rows` reads memory of `image`, `out` is memory of `resized`; no Python object is touched.
        py::gil_scoped_release release;
        resize_rows(rows, sides, channels, how, out);
    }
    return resized;
}

}  // namespace lite_infer
