// SPDX-License-Identifier: Apache-2.0
// JSON: a parsed, immutable document with total accessors (a missing or wrongly typed member reads
// as absent), a streaming reader for texts too large for that, and a writer. Only this header's .cc
// uses a JSON library.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/secret.h"

namespace imagefs {

// A value in a parsed document. Cheap to copy (shares the document). Every accessor of an absent
// value returns an empty result.
class Json {
 public:
  Json() = default;  // absent
  // Rejects more than `max_depth` levels, objects with more than 4096 members, and invalid UTF-8 in
  // strings, so that hostile input is bounded; the caller must bound the length of the text. If
  // several members have the same name, the last one wins.
  static absl::StatusOr<Json> Parse(std::string_view text, int max_depth = 64);

  bool exists() const { return node_ != nullptr; }
  bool is_object() const;
  bool is_array() const;
  bool is_null() const;
  std::optional<std::string> string() const;
  std::optional<int64_t> integer() const;  // whole numbers only
  std::optional<bool> boolean() const;
  size_t size() const;  // members or elements
  Json operator[](std::string_view key) const;
  Json at(size_t index) const;
  std::vector<std::pair<std::string, Json>> members() const;  // of an object, in order
  std::vector<Json> elements() const;                         // of an array
  std::string StringOr(std::string_view key, std::string_view fallback = "") const;
  Secret SecretOf(std::string_view key) const;  // empty when absent
  int64_t IntOr(std::string_view key, int64_t fallback) const;
  std::string Dump(int indent = -1) const;  // control characters as JsonWriter writes them

 private:
  std::shared_ptr<const void> document_;  // keeps the document alive
  const void* node_ = nullptr;
};

// Callbacks of VisitJson, in document order. An error stops the parse.
class JsonVisitor {
 public:
  virtual ~JsonVisitor() = default;
  virtual absl::Status Open(bool object) = 0;  // object if true, else array
  virtual absl::Status Close() = 0;            // closes the innermost open one
  virtual absl::Status Key(std::string_view key) = 0;
  virtual absl::Status String(std::string_view value) = 0;
  virtual absl::Status Int(int64_t value) = 0;  // integers that fit
  virtual absl::Status Null() = 0;
  virtual absl::Status Other() = 0;  // booleans, other numbers
};

// Parses a text without building a document, for texts of many megabytes. Rejects what Json::Parse
// rejects, except that objects may have any number of members. Returns the visitor's error
// unchanged.
absl::Status VisitJson(std::string_view text, JsonVisitor& visitor, int max_depth = 64);

// Writes one JSON text. Usage: w.BeginObject().Key("a").Int(1).EndObject(). Invalid UTF-8 in
// strings is written as U+FFFD, control characters (also U+007F to U+009F) as "\u00XX". Two spaces
// of indentation when `pretty`.
class JsonWriter {
 public:
  explicit JsonWriter(bool pretty = false) : pretty_(pretty) {}
  JsonWriter& BeginObject();
  JsonWriter& EndObject();
  JsonWriter& BeginArray();
  JsonWriter& EndArray();
  JsonWriter& Key(std::string_view key);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  JsonWriter& Uint(uint64_t value);
  JsonWriter& Double(double value);
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  // Writes a value that is already JSON.
  JsonWriter& Raw(std::string_view json);
  // Writes a parsed document, its members in their order; null if it does not exist.
  JsonWriter& Document(const Json& value);
  // Key and value in one call.
  JsonWriter& Member(std::string_view key, std::string_view value) {
    return Key(key).String(value);
  }
  JsonWriter& Member(std::string_view key, const char* value) { return Key(key).String(value); }
  JsonWriter& Member(std::string_view key, int64_t value) { return Key(key).Int(value); }
  JsonWriter& Member(std::string_view key, uint64_t value) { return Key(key).Uint(value); }
  JsonWriter& Member(std::string_view key, bool value) { return Key(key).Bool(value); }
  std::string Take() { return std::move(out_); }

 private:
  void Separate();
  void End(char bracket);
  void Quote(std::string_view text);
  const bool pretty_;
  std::string out_;
  std::vector<bool> has_member_;
  bool after_key_ = false;
};

}  // namespace imagefs
