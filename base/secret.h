// SPDX-License-Identifier: Apache-2.0
// Passwords, tokens and text derived from them, wiped once no longer needed; and helpers to wipe
// what a library derived from them.
//
// The bytes of a Secret are on the heap exactly once: copies share them, and the last one wipes
// them. They are not locked into memory, so the machine may write them to swap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

namespace imagefs {

// Immutable. Text converts to a Secret implicitly; a Secret converts to text only by view(). As
// thread-safe as a shared_ptr.
class Secret {
 public:
  Secret() = default;  // empty
  template <typename T>
  requires std::is_convertible_v<const T&, std::string_view> Secret(const T& text)
      : Secret(Concat({std::string_view(text)})) {}  // NOLINT: on purpose
  static Secret Concat(std::initializer_list<std::string_view> parts);

  bool empty() const { return bytes_ == nullptr; }
  size_t size() const;
  // Valid while this object or a copy of it exists.
  std::string_view view() const;
  const char* c_str() const;  // the same, null-terminated

  friend bool operator==(const Secret& a, const Secret& b) { return a.view() == b.view(); }

 private:
  class Bytes;
  explicit Secret(std::shared_ptr<const Bytes> bytes);
  std::shared_ptr<const Bytes> bytes_;  // null: empty
};

// A fixed-size buffer to write a secret into; it never reallocates, so no copy is left behind.
// Zero-initialized, wiped on destruction. Not thread-safe.
class SecretBuffer {
 public:
  explicit SecretBuffer(size_t size) : bytes_(size, '\0') {}
  SecretBuffer(const SecretBuffer&) = delete;
  SecretBuffer& operator=(const SecretBuffer&) = delete;
  ~SecretBuffer();
  size_t size() const { return bytes_.size(); }
  char* data() { return bytes_.data(); }
  uint8_t* bytes() { return reinterpret_cast<uint8_t*>(bytes_.data()); }
  std::string_view view() const { return bytes_; }

 private:
  std::string bytes_;
};

// Writing a secret to a log line or message is a compile-time error.
std::ostream& operator<<(std::ostream&, const Secret&) = delete;

// Overwrites the whole capacity of `text` and leaves it empty.
void Wipe(std::string& text);

// Wipes `text` at the end of the scope. `text` must outlive it.
class WipeAtEnd {
 public:
  explicit WipeAtEnd(std::string& text) : text_(text) {}
  WipeAtEnd(const WipeAtEnd&) = delete;
  WipeAtEnd& operator=(const WipeAtEnd&) = delete;
  ~WipeAtEnd() { Wipe(text_); }

 private:
  std::string& text_;
};

// Overwrites some tens of KiB below the current stack frame, where functions that have returned may
// have left secrets (parsers keep short texts there). Call when done with secrets.
void WipeStack();

}  // namespace imagefs
