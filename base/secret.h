// Passwords, tokens and what is made of them: text whose bytes are wiped when nobody needs them any
// more, and the means to wipe what a library made of such text.
//
// The bytes of a Secret lie once on the heap, however often it is copied: copies share them, the
// last one wipes them. Not locked into memory: a machine that swaps may write them to its swap.
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

// Immutable. Text becomes a secret by itself; a secret becomes text only where view() is written.
// As thread-safe as a shared_ptr.
class Secret {
 public:
  Secret() = default;  // empty
  template <typename T>
  requires std::is_convertible_v<const T&, std::string_view> Secret(const T& text)
      : Secret(Concat({std::string_view(text)})) {}  // NOLINT: on purpose
  static Secret Concat(std::initializer_list<std::string_view> parts);

  bool empty() const { return bytes_ == nullptr; }
  size_t size() const;
  // Valid as long as this or a copy of it is.
  std::string_view view() const;
  const char* c_str() const;  // the same, ended by a zero byte

  friend bool operator==(const Secret& a, const Secret& b) { return a.view() == b.view(); }

 private:
  class Bytes;
  explicit Secret(std::shared_ptr<const Bytes> bytes);
  std::shared_ptr<const Bytes> bytes_;  // null: empty
};

// Bytes to write a secret into: their number is fixed, so that no copy is left behind by growing.
// Zeros at first, wiped at the end. Not thread-safe.
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

// A secret in a log line or a message is an error of the compiler.
std::ostream& operator<<(std::ostream&, const Secret&) = delete;

// Overwrites all of the text's memory and leaves it empty.
void Wipe(std::string& text);

// Wipes a text when the scope ends. The text must outlive it.
class WipeAtEnd {
 public:
  explicit WipeAtEnd(std::string& text) : text_(text) {}
  WipeAtEnd(const WipeAtEnd&) = delete;
  WipeAtEnd& operator=(const WipeAtEnd&) = delete;
  ~WipeAtEnd() { Wipe(text_); }

 private:
  std::string& text_;
};

// Overwrites what functions that have returned left on this thread's stack, some tens of KiB of it:
// parsers keep short texts there. For the end of work with secrets.
void WipeStack();

}  // namespace imagefs
