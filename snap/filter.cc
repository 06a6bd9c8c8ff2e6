// SPDX-License-Identifier: Apache-2.0
#include "snap/filter.h"

#include <re2/re2.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr size_t kMaxFilters = 256;
constexpr size_t kMaxFilterBytes = 64 << 10;
constexpr int64_t kMaxRegexBytes = 1 << 20;  // limit of the compiled form

std::string_view KindName(SnapshotKind kind) {
  switch (kind) {
    case SnapshotKind::kView:
      return "view";
    case SnapshotKind::kActive:
      return "active";
    case SnapshotKind::kCommitted:
      return "committed";
  }
  return "unknown";
}

bool IsWordStart(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool IsWord(char c) { return IsWordStart(c) || (c >= '0' && c <= '9'); }

void AppendUtf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

}  // namespace

struct SnapshotFilter::Selector {
  enum class Op { kPresent, kEqual, kNotEqual, kMatches };
  enum class Field { kName, kParent, kKind, kLabel, kUnknown };

  // Returns the part of `info` that is compared; nullopt = `info` has no such field.
  std::optional<std::string_view> ValueOf(const SnapshotInfo& info) const {
    switch (field) {
      case Field::kName:
        return info.name;
      case Field::kParent:
        return info.parent;
      case Field::kKind:
        return KindName(info.kind);
      case Field::kLabel: {
        const auto found = info.labels.find(label);
        if (found == info.labels.end()) return std::nullopt;
        return found->second;
      }
      case Field::kUnknown:
        break;
    }
    return std::nullopt;
  }

  bool Match(const SnapshotInfo& info) const {
    const std::optional<std::string_view> have = ValueOf(info);
    switch (op) {
      case Op::kPresent:
        return have.has_value();
      case Op::kEqual:
        return have.has_value() && *have == value;
      case Op::kNotEqual:
        return have.value_or("") != value;
      case Op::kMatches: {
        const std::string_view text = have.value_or("");
        return RE2::PartialMatch(re2::StringPiece(text.data(), text.size()), *regex);
      }
    }
    return false;
  }

  Field field = Field::kUnknown;
  std::string label;
  Op op = Op::kPresent;
  std::string value;
  std::shared_ptr<const RE2> regex;
};

class SnapshotFilter::Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<Filter> Run() {
    Filter filter;
    while (true) {
      IMAGEFS_ASSIGN_OR_RETURN(Selector selector, ReadSelector());
      filter.push_back(std::move(selector));
      SkipBlanks();
      if (at_ == text_.size()) return filter;
      if (text_[at_] != ',') return Error("expected a comma");
      ++at_;
    }
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(
        StrCat("filter \"", Printable(text_), "\": ", what, " at byte ", at_));
  }

  void SkipBlanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }
  bool Consume(std::string_view token) {
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }

  absl::StatusOr<Selector> ReadSelector() {
    Selector selector;
    IMAGEFS_RETURN_IF_ERROR(ReadField(selector));
    SkipBlanks();
    if (Consume("==")) {
      selector.op = Selector::Op::kEqual;
    } else if (Consume("!=")) {
      selector.op = Selector::Op::kNotEqual;
    } else if (Consume("~=")) {
      selector.op = Selector::Op::kMatches;
    } else {
      return selector;
    }
    SkipBlanks();
    IMAGEFS_ASSIGN_OR_RETURN(selector.value, ReadValue(selector.op == Selector::Op::kMatches));
    if (selector.op != Selector::Op::kMatches) return selector;
    RE2::Options options(RE2::Quiet);
    options.set_max_mem(kMaxRegexBytes);
    selector.regex = std::make_shared<const RE2>(selector.value, options);
    if (!selector.regex->ok())
      return Error(StrCat("regular expression: ", selector.regex->error()));
    return selector;
  }

  absl::Status ReadField(Selector& selector) {
    SkipBlanks();
    std::vector<std::string> parts;
    do {
      std::string part;
      if (at_ < text_.size() && text_[at_] == '"') {
        IMAGEFS_ASSIGN_OR_RETURN(part, ReadQuoted());
      } else {
        const size_t begin = at_;
        while (at_ < text_.size() &&
               (at_ == begin ? IsWordStart(text_[at_]) : IsWord(text_[at_]))) {
          ++at_;
        }
        part = text_.substr(begin, at_ - begin);
        if (part.empty()) return Error("expected a field");
      }
      parts.push_back(std::move(part));
    } while (Consume("."));
    selector.field = FieldOf(parts);
    if (selector.field != Selector::Field::kLabel) return absl::OkStatus();
    for (size_t i = 1; i < parts.size(); ++i) {
      StrAppend(&selector.label, i == 1 ? "" : ".", parts[i]);
    }
    return absl::OkStatus();
  }

  static Selector::Field FieldOf(const std::vector<std::string>& parts) {
    if (parts[0] == "labels") return Selector::Field::kLabel;
    if (parts.size() > 1) return Selector::Field::kUnknown;
    if (parts[0] == "name") return Selector::Field::kName;
    if (parts[0] == "parent") return Selector::Field::kParent;
    if (parts[0] == "kind") return Selector::Field::kKind;
    return Selector::Field::kUnknown;
  }

  absl::StatusOr<std::string> ReadValue(bool regex) {
    if (at_ == text_.size()) return Error("expected a value");
    const char first = text_[at_];
    if (first == '"') return ReadQuoted();
    if (regex && (first == '/' || first == '|')) return ReadDelimited(first);
    const size_t end = std::min(text_.find_first_of(" \t,", at_), text_.size());
    if (end == at_) return Error("expected a value");
    std::string value(text_.substr(at_, end - at_));
    at_ = end;
    return value;
  }

  // Reads up to the next `delimiter`; a backslash escapes it.
  absl::StatusOr<std::string> ReadDelimited(char delimiter) {
    std::string out;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == delimiter) {
        ++at_;
        return out;
      }
      if (text_[at_] == '\\' && at_ + 1 < text_.size() && text_[at_ + 1] == delimiter) ++at_;
      out += text_[at_];
    }
    return Error("unterminated expression");
  }

  // Reads a Go string literal.
  absl::StatusOr<std::string> ReadQuoted() {
    std::string out;
    for (++at_; at_ < text_.size();) {
      const char c = text_[at_++];
      if (c == '"') return out;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size()) break;
      IMAGEFS_RETURN_IF_ERROR(ReadEscape(text_[at_++], out));
    }
    return Error("unterminated string");
  }

  absl::Status ReadEscape(char kind, std::string& out) {
    static constexpr std::string_view kSimple = "abfnrtv\\\"'";
    static constexpr std::string_view kMeaning = "\a\b\f\n\r\t\v\\\"'";
    if (const size_t i = kSimple.find(kind); i != std::string_view::npos) {
      out += kMeaning[i];
      return absl::OkStatus();
    }
    const size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    const bool octal = kind >= '0' && kind <= '7';
    if (digits == 0 && !octal) return Error("unknown escape");
    const size_t count = octal ? 3 : digits;
    if (octal) --at_;
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : 99;
      if (digit >= (octal ? 8 : 16)) return Error("bad digit");
      value = value * (octal ? 8 : 16) + static_cast<uint32_t>(digit);
    }
    if (octal || kind == 'x') {
      if (value > 0xFF) return Error("escape out of range");
      out += static_cast<char>(value);
      return absl::OkStatus();
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      return Error("escape out of range");
    }
    AppendUtf8(out, value);
    return absl::OkStatus();
  }

  const std::string_view text_;
  size_t at_ = 0;
};

absl::StatusOr<SnapshotFilter> SnapshotFilter::Parse(const std::vector<std::string>& filters) {
  if (filters.size() > kMaxFilters) {
    return absl::InvalidArgumentError(StrCat("more than ", kMaxFilters, " filters"));
  }
  SnapshotFilter out;
  for (const std::string& text : filters) {
    if (text.size() > kMaxFilterBytes) return absl::InvalidArgumentError("a filter is too long");
    if (text.empty()) return SnapshotFilter();  // matches everything
    IMAGEFS_ASSIGN_OR_RETURN(Filter filter, Parser(text).Run());
    out.any_of_.push_back(std::make_shared<const Filter>(std::move(filter)));
  }
  return out;
}

bool SnapshotFilter::Match(const SnapshotInfo& info) const {
  if (any_of_.empty()) return true;
  return std::any_of(any_of_.begin(), any_of_.end(), [&](const auto& filter) {
    return std::all_of(filter->begin(), filter->end(),
                       [&](const Selector& selector) { return selector.Match(info); });
  });
}

}  // namespace imagefs
