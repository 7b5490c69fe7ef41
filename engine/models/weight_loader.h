// WeightLoader takes named tensors of a checkpoint into the form that ops want:
// matrices packed by the kernel table; norms, biases and tables in its memory.
// It remembers the first error, so that a model's constructor reads as a list
// of its tensors:
//
//   WeightLoader loader(checkpoint, kernels, precision);
//   auto q = loader.Matrix("...q_proj.weight"); ...
//   if (!loader.status().ok()) return loader.status();
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/loading/checkpoint.h"
#include "kernels/kernel_table.h"

namespace shoal {

// An array in the kernel table's memory; empty where a model has none.
template <typename T>
class DeviceArray {
 public:
  bool empty() const { return buffer_ == nullptr; }
  // nullptr if empty.
  const T* data() const {
    return empty() ? nullptr : static_cast<const T*>(buffer_->data());
  }

 private:
  friend class WeightLoader;
  std::unique_ptr<DeviceBuffer> buffer_;
};

// A stored tensor where ops can read it: in the mapped file if the table's
// memory is the host's, else a copy.
class DeviceWeight {
 public:
  const WeightView& view() const { return view_; }

 private:
  friend class WeightLoader;
  WeightView view_;
  std::unique_ptr<DeviceBuffer> data_, scales_;
};

// A matrix that is no whole tensor of the checkpoint: a float copy in memory of
// its own, or rows of a tensor.
class HeadWeight {
 public:
  const PackedMatrix& matrix() const { return *matrix_; }

 private:
  friend class WeightLoader;
  std::vector<float> floats_;     // at most one of these two holds it
  std::vector<uint16_t> halves_;  // bf16
  std::unique_ptr<PackedMatrix> matrix_;
};

class WeightLoader {
 public:
  // All must outlive this, the checkpoint also what is loaded.
  WeightLoader(const Checkpoint& checkpoint, KernelTable& kernels,
               Precision precision)
      : checkpoint_(checkpoint), kernels_(kernels), precision_(precision) {}

  // nullptr after an error.
  std::unique_ptr<PackedMatrix> Matrix(const std::string& name);
  // As Matrix(), but with f32 activations whatever the precision (routers).
  std::unique_ptr<PackedMatrix> ExactMatrix(const std::string& name);
  // Packs a copy of `values` [out, in]: f32 where results must be exact, else
  // bf16. nullptr after an error.
  std::unique_ptr<HeadWeight> PackHead(const float* values, int64_t out,
                                       int64_t in);
  // Rows [first, first + count) of a matrix. They stay as stored, unless tiles
  // of scales lie across their edges: then a copy as PackHead() makes it.
  std::unique_ptr<HeadWeight> Rows(const std::string& name, int64_t first,
                                   int64_t count);
  // A table of ids in [0, limit); empty after an error.
  DeviceArray<int32_t> Ids(const std::string& name, int64_t limit);
  // Any float type, as f32; empty after an error.
  DeviceArray<float> Floats(const std::string& name);
  // As Floats(), or empty if there is no such tensor.
  DeviceArray<float> OptionalFloats(const std::string& name);
  // As Floats(), in the host's memory: for what is rearranged before it is
  // packed.
  std::vector<float> HostFloats(const std::string& name);
  // The tensor as stored; an empty view after an error.
  DeviceWeight Stored(const std::string& name);
  // Zeroed memory of the table; nullptr after an error, which names `what`.
  std::unique_ptr<DeviceBuffer> Allocate(const std::string& what,
                                         int64_t bytes);
  // Has the tensors whose names begin so read ahead from disk, if matrices are
  // being repacked; those used where they lie are read when they are needed.
  void Prefetch(const std::string& prefix) const;
  bool Contains(const std::string& name) const {
    return checkpoint_.Contains(name);
  }

  // Keeps `status` if it is the first error.
  void Fail(const absl::Status& status) { status_.Update(status); }
  // Bytes that packed matrices and arrays occupy, mapped matrices included.
  int64_t bytes() const { return bytes_; }
  const absl::Status& status() const { return status_; }

 private:
  // As the checkpoint has it; empty after an error.
  WeightView View(const std::string& name);
  std::unique_ptr<PackedMatrix> Pack(const std::string& name,
                                     Precision precision);
  // A copy of `bytes` in the table's memory; nullptr after an error.
  std::unique_ptr<DeviceBuffer> Place(const std::string& name, const void* host,
                                      int64_t bytes);

  const Checkpoint& checkpoint_;
  KernelTable& kernels_;
  const Precision precision_;
  int64_t bytes_ = 0;
  bool repacks_ = false;  // whether the last matrix was
  absl::Status status_;
};

}  // namespace shoal
