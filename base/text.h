// SPDX-License-Identifier: Apache-2.0
// Text helpers for std::string_view. Debian's Abseil is built with its own string_view, to which
// std::string_view does not convert, so this header wraps StrCat and a few others; use these (and
// std::string_view's own starts_with, ends_with, find). Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace imagefs {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view ToStd(absl::string_view text) { return {text.data(), text.size()}; }

namespace internal {
inline absl::string_view ForAbsl(std::string_view text) { return ToAbsl(text); }
template <typename T>
std::enable_if_t<!std::is_convertible_v<const T&, std::string_view>, const T&> ForAbsl(
    const T& value) {
  return value;
}
}  // namespace internal

// absl::StrCat and absl::StrAppend that also accept std::string_view.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(internal::ForAbsl(args)...);
}
template <typename... Args>
void StrAppend(std::string* out, const Args&... args) {
  absl::StrAppend(out, internal::ForAbsl(args)...);
}

// Makes hostile input fit for one line of a message: at most `max_bytes` of it, with everything but
// printable ASCII escaped.
inline std::string Printable(std::string_view text, size_t max_bytes = 200) {
  std::string out = absl::CHexEscape(ToAbsl(text.substr(0, max_bytes)));
  if (text.size() > max_bytes) out += "...";
  return out;
}

// True for well-formed UTF-8, which strings of the control protocol must be.
bool IsUtf8(std::string_view text);

// True if `text` contains control characters (including the two-byte C1 ones), line ends, or
// invalid UTF-8.
bool HasControls(std::string_view text);

// Makes a user-supplied name (a path, a reference) fit for one line of a message: control
// characters, bidirectional formatting characters and invalid UTF-8 are escaped ("\n", "\x1b").
// Names longer than `max_bytes` lose their middle, since the end of a path is the most informative.
std::string PrintableName(std::string_view name, size_t max_bytes = 200);

// Cuts the middle out of a message longer than `max_bytes`; it may contain user input.
inline std::string Shortened(std::string_view text, size_t max_bytes = 2000) {
  if (text.size() <= max_bytes) return std::string(text);
  const size_t half = max_bytes / 2;
  return StrCat(text.substr(0, half), "...", text.substr(text.size() - half));
}

// Returns the parts between separators; one empty part for empty text. The views point into `text`.
inline std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  while (true) {
    const size_t at = text.find(separator);
    out.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return out;
    text.remove_prefix(at + 1);
  }
}

inline bool ConsumePrefix(std::string_view* text, std::string_view prefix) {
  if (!text->starts_with(prefix)) return false;
  text->remove_prefix(prefix.size());
  return true;
}

// Accepts decimal digits only: no sign, no blanks. Returns nullopt if empty or too large.
inline std::optional<uint64_t> ParseDecimal(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    if (__builtin_mul_overflow(value, uint64_t{10}, &value) ||
        __builtin_add_overflow(value, static_cast<uint64_t>(c - '0'), &value)) {
      return std::nullopt;
    }
  }
  return value;
}

inline std::string ToLower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

}  // namespace imagefs
