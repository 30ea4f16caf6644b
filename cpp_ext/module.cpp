// Registers the kernels as runtime._kernels. Arguments are checked by the kernels, converted by runtime/kernels.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>

#include "displacement.hpp"
#include "encoder_input.hpp"
#include "half.hpp"
#include "units.hpp"
#include "logits_to_masks.hpp"
#include "mask_box.hpp"
#include "resize_logits.hpp"
#include "resize_uint8.hpp"
#include "window_to_uint8.hpp"

namespace {

namespace py = pybind11;

// The kernels that read intensities, once a dtype. Nothing is converted: a wrong dtype or layout is a TypeError.
template <typename T>
void register_for_dtype(py::module_& module) {
    module.def("window_to_uint8", &lite_infer::window_to_uint8<T>, py::arg("image").noconvert(), py::arg("lower"),
               py::arg("upper"), py::arg("zero_stays_zero"));
    module.def("encoder_input", &lite_infer::encoder_input<T>, py::arg("image").noconvert(),
               py::arg("window").none(true), py::arg("resized_size"), py::arg("input_size"), py::arg("interpolation"),
               py::arg("normalise"));
}

}  // namespace

PYBIND11_MODULE(_kernels, module, py::mod_gil_not_used()) {
    module.doc() = "Compiled image and mask kernels; use runtime.kernels, which documents and checks them.";
    register_for_dtype<std::uint8_t>(module);
    register_for_dtype<std::int8_t>(module);
    register_for_dtype<std::uint16_t>(module);
    register_for_dtype<std::int16_t>(module);
    register_for_dtype<std::uint32_t>(module);
    register_for_dtype<std::int32_t>(module);
    register_for_dtype<float>(module);
    register_for_dtype<double>(module);
    module.def("resize_uint8", &lite_infer::resize_uint8, py::arg("image").noconvert(), py::arg("size"),
               py::arg("interpolation"));
    module.def("resize_logits", &lite_infer::resize_logits, py::arg("logits").noconvert(), py::arg("size"));
    module.def("logits_to_masks", &lite_infer::logits_to_masks, py::arg("logits").noconvert(), py::arg("crop"),
               py::arg("size"), py::arg("threshold"), py::arg("inclusive"));
    module.def("half_to_float", &lite_infer::half_to_float, py::arg("bits").noconvert());
    module.def("float_to_half", &lite_infer::float_to_half, py::arg("values").noconvert());
    module.def("int8_units", &lite_infer::int8_units);
    module.def("bf16_unit", &lite_infer::bf16_unit);
    module.def("displacement", &lite_infer::displacement, py::arg("before").noconvert(), py::arg("now").noconvert(),
               py::arg("mask").noconvert());
    module.def("mask_box", &lite_infer::mask_box, py::arg("mask").noconvert());
}
