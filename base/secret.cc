// SPDX-License-Identifier: Apache-2.0
#include "base/secret.h"

#include <string.h>

#include <utility>

namespace imagefs {

class Secret::Bytes {
 public:
  explicit Bytes(std::initializer_list<std::string_view> parts) {
    for (std::string_view part : parts) size_ += part.size();
    bytes_ = std::make_unique_for_overwrite<char[]>(size_ + 1);
    char* end = bytes_.get();
    for (std::string_view part : parts) {
      if (!part.empty()) memcpy(end, part.data(), part.size());
      end += part.size();
    }
    *end = '\0';
  }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  ~Bytes() { explicit_bzero(bytes_.get(), size_); }

  std::string_view view() const { return {bytes_.get(), size_}; }

 private:
  size_t size_ = 0;
  std::unique_ptr<char[]> bytes_;
};

Secret::Secret(std::shared_ptr<const Bytes> bytes) : bytes_(std::move(bytes)) {}

Secret Secret::Concat(std::initializer_list<std::string_view> parts) {
  auto bytes = std::make_shared<const Bytes>(parts);
  return bytes->view().empty() ? Secret() : Secret(std::move(bytes));
}

size_t Secret::size() const { return view().size(); }

std::string_view Secret::view() const {
  return bytes_ == nullptr ? std::string_view() : bytes_->view();
}

const char* Secret::c_str() const { return bytes_ == nullptr ? "" : bytes_->view().data(); }

SecretBuffer::~SecretBuffer() { explicit_bzero(bytes_.data(), bytes_.size()); }

void Wipe(std::string& text) {
  text.resize(text.capacity());  // within the capacity: no reallocation
  explicit_bzero(text.data(), text.size());
  text.clear();
}

[[gnu::noinline]] void WipeStack() {
  char below[48 << 10];
  explicit_bzero(below, sizeof(below));
}

}  // namespace imagefs
