// RowReader: how the resize kernel asks for source rows, so that a window can be applied on the way in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "window_to_uint8.hpp"

namespace lite_infer {

struct RowReader {
    RowReader() = default;
    RowReader(const RowReader&) = delete;
    RowReader& operator=(const RowReader&) = delete;
    virtual ~RowReader() = default;
    // The uint8 values of a row, channels interleaved; valid until the next call.
    virtual const std::uint8_t* row(std::size_t index) = 0;
};

// Rows of a uint8 image as they are.
struct PlainRows final : RowReader {
    PlainRows(const std::uint8_t* image, std::size_t row_values) : image_(image), row_values_(row_values) {}
    const std::uint8_t* row(std::size_t index) override { return image_ + index * row_values_; }

private:
    const std::uint8_t* image_;
    std::size_t row_values_;
};

// Rows of an image of any supported dtype, windowed to uint8 as they are read.
template <typename T>
struct WindowedRows final : RowReader {
    WindowedRows(const T* image, std::size_t rows, std::size_t row_values, const Window& window)
        : image_(image), row_values_(row_values), converter_(window, rows * row_values), levels_(row_values) {}

    const std::uint8_t* row(std::size_t index) override {
        converter_.run(image_ + index * row_values_, levels_.data(), row_values_);
        return levels_.data();
    }

private:
    const T* image_;
    std::size_t row_values_;
    WindowConverter<T> converter_;
    std::vector<std::uint8_t> levels_;
};

}  // namespace lite_infer
