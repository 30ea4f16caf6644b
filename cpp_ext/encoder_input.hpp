// encoder_input: window, resize, normalise, pad and channel order in one pass over the image.
// Knows the manifest's preprocessing facts as plain numbers; knows nothing of manifests.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "checks.hpp"
#include "resize_uint8.hpp"
#include "targets.hpp"

namespace lite_infer {

enum class Normalisation { kMinMax, kMeanStd, kScale };
using LevelTable = std::array<float, 256>;

inline Normalisation parse_normalisation(const std::string& name) {
    if (name == "min_max") {
        return Normalisation::kMinMax;
    }
    if (name == "mean_std") {
        return Normalisation::kMeanStd;
    }
    if (name == "scale") {
        return Normalisation::kScale;
    }
    throw py::value_error("normalise: '" + name + "', wanted 'min_max', 'mean_std' or 'scale'");
}

LITE_INFER_MULTIVERSION static void level_range(const std::uint8_t* levels, std::size_t count, std::uint8_t& smallest,
                                                std::uint8_t& largest) {
    std::uint8_t low = 255;
    std::uint8_t high = 0;
    for (std::size_t i = 0; i < count; ++i) {
        low = std::min(low, levels[i]);
        high = std::max(high, levels[i]);
    }
    smallest = low;
    largest = high;
}

// (level - min) / max(max - min, 1e-8) in float64, then rounded to float32.
inline LevelTable min_max_table(std::uint8_t smallest, std::uint8_t largest) {
    const double range = std::max(static_cast<double>(largest) - static_cast<double>(smallest), 1e-8);
    LevelTable table;
    for (std::size_t level = 0; level < table.size(); ++level) {
        table[level] = static_cast<float>((static_cast<double>(level) - static_cast<double>(smallest)) / range);
    }
    return table;
}

// (level - mean) / std in float32; mean 0 and std 255 give the plain scale.
inline LevelTable mean_std_table(float mean, float std) {
    LevelTable table;
    for (std::size_t level = 0; level < table.size(); ++level) {
        table[level] = (static_cast<float>(level) - mean) / std;
    }
    return table;
}

struct PlaneShape {
    std::size_t rows, columns;                // of the levels
    std::size_t padded_rows, padded_columns;  // of the plane, zero to the right of and below the levels
};

// Writes one channel of interleaved levels as a padded float plane.
inline void fill_plane(const std::uint8_t* levels, std::size_t channels, const LevelTable& table,
                       const PlaneShape& shape, float* plane) {
    for (std::size_t y = 0; y < shape.rows; ++y) {
        float* out = plane + y * shape.padded_columns;
        for (std::size_t x = 0; x < shape.columns; ++x, levels += channels) {
            out[x] = table[*levels];
        }
        std::fill(out + shape.columns, out + shape.padded_columns, 0.0F);
    }
    std::fill(plane + shape.rows * shape.padded_columns, plane + shape.padded_rows * shape.padded_columns, 0.0F);
}

struct EncoderInputPlan {
    ResizeShape sides;
    std::size_t image_channels, channels;
    PlaneShape plane;
    Interpolation interpolation;
    Normalisation normalisation;
    std::vector<float> mean, std;
};

inline void fill_encoder_input(RowReader& rows, const EncoderInputPlan& plan, float* out) {
    const std::size_t count = plan.sides.output_rows * plan.sides.output_columns * plan.image_channels;
    std::vector<std::uint8_t> levels(count);
    resize_rows(rows, plan.sides, plan.image_channels, plan.interpolation, levels.data());
    std::uint8_t smallest = 0;
    std::uint8_t largest = 0;
    if (plan.normalisation == Normalisation::kMinMax) {
        level_range(levels.data(), count, smallest, largest);
    }
    const std::size_t plane_values = plan.plane.padded_rows * plan.plane.padded_columns;
    for (std::size_t c = 0; c < plan.channels; ++c, out += plane_values) {
        const bool grey = plan.image_channels == 1;
        if (grey && c > 0 && plan.normalisation != Normalisation::kMeanStd) {
            std::copy(out - plane_values, out, out);
            continue;
        }
        const LevelTable table = plan.normalisation == Normalisation::kMinMax ? min_max_table(smallest, largest)
                                 : plan.normalisation == Normalisation::kMeanStd
                                     ? mean_std_table(plan.mean[c], plan.std[c])
                                     : mean_std_table(0.0F, 255.0F);
        fill_plane(levels.data() + (grey ? 0 : c), plan.image_channels, table, plan.plane, out);
    }
}

inline void check_statistics(const std::vector<float>& values, std::size_t channels, const char* name, bool nonzero) {
    if (values.size() != channels) {
        throw py::value_error(std::string(name) + ": " + std::to_string(values.size()) + " values, wanted " +
                              std::to_string(channels) + ", one a channel");
    }
    for (const float value : values) {
        check_finite(static_cast<double>(value), name);
        if (nonzero && value == 0.0F) {
            throw py::value_error(std::string(name) + ": 0, wanted a number to divide by");
        }
    }
}

// How levels become network values: normalisation name, mean, std, channels of the network.
using Normalise = std::tuple<std::string, std::vector<float>, std::vector<float>, std::int64_t>;
// lower, upper, zero_stays_zero; absent for an image that holds grey levels already.
using OptionalWindow = std::optional<std::tuple<double, double, bool>>;

inline EncoderInputPlan plan_encoder_input(const py::array& image, const Size& resized, const Size& input_size,
                                           const std::string& interpolation, const Normalise& normalise) {
    EncoderInputPlan plan;
    plan.image_channels = check_image(image);
    check_size(resized, "resized_size");
    check_size(input_size, "input_size");
    if (resized[0] > input_size[0] || resized[1] > input_size[1]) {
        throw py::value_error("resized_size: " + std::to_string(resized[0]) + " x " + std::to_string(resized[1]) +
                              " does not fit into input_size " + std::to_string(input_size[0]) + " x " +
                              std::to_string(input_size[1]));
    }
    const std::int64_t channels = std::get<3>(normalise);
    if (channels < 1 || channels > 4) {
        throw py::value_error("channels: " + std::to_string(channels) + ", wanted 1 to 4");
    }
    plan.channels = static_cast<std::size_t>(channels);
    if (plan.image_channels != 1 && plan.image_channels != plan.channels) {
        throw py::value_error("image: " + std::to_string(plan.image_channels) + " channels, wanted 1 or " +
                              std::to_string(plan.channels));
    }
    plan.interpolation = parse_interpolation(interpolation);
    plan.normalisation = parse_normalisation(std::get<0>(normalise));
    if (plan.normalisation == Normalisation::kMeanStd) {
        plan.mean = std::get<1>(normalise);
        plan.std = std::get<2>(normalise);
        check_statistics(plan.mean, plan.channels, "mean", false);
        check_statistics(plan.std, plan.channels, "std", true);
    }
    checked_product(input_size[0], input_size[1], sizeof(float) * plan.channels, "input_size");
    plan.sides = resize_shape(image, resized);
    plan.plane = {plan.sides.output_rows, plan.sides.output_columns, static_cast<std::size_t>(input_size[0]),
                  static_cast<std::size_t>(input_size[1])};
    return plan;
}

template <typename T>
std::unique_ptr<RowReader> open_rows(const Array<T>& image, std::size_t channels, const OptionalWindow& window) {
    const auto image_rows = static_cast<std::size_t>(image.shape(0));
    const std::size_t row_values = static_cast<std::size_t>(image.shape(1)) * channels;
    if (window) {
        const Window bounds{std::get<0>(*window), std::get<1>(*window), std::get<2>(*window)};
        check_window(bounds);
        return std::make_unique<WindowedRows<T>>(image.data(), image_rows, row_values, bounds);
    }
    if constexpr (std::is_same<T, std::uint8_t>::value) {
        return std::make_unique<PlainRows>(image.data(), row_values);
    } else {
        throw py::value_error("window: None, wanted (lower, upper, zero_stays_zero) for an image that is not uint8");
    }
}

template <typename T>
Array<float> encoder_input(const Array<T>& image, const OptionalWindow& window, const Size& resized,
                           const Size& input_size, const std::string& interpolation, const Normalise& normalise) {
    const EncoderInputPlan plan = plan_encoder_input(image, resized, input_size, interpolation, normalise);
    const std::unique_ptr<RowReader> rows = open_rows<T>(image, plan.image_channels, window);
    Array<float> input(std::vector<py::ssize_t>{1, static_cast<py::ssize_t>(plan.channels), input_size[0],
                                                input_size[1]});
    float* out = input.mutable_data();
    {
        // Safe: `rows` reads memory of `image`, `out` is memory of `input`; no Python object is touched.
        py::gil_scoped_release release;
        fill_encoder_input(*rows, plan, out);
    }
    return input;
}

}  // namespace lite_infer
