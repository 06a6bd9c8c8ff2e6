// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

using Value = nlohmann::ordered_json;

const Value* Node(const void* node) { return static_cast<const Value*>(node); }

// Member lookup in ordered_json is linear, so building an object is quadratic. No object that the
// project reads has more than some tens of members.
constexpr size_t kMaxMembers = 4096;

// Builds a document from the events of a parse. Rejects excessive nesting before anything recursive
// sees it, and excessively large objects before they cost minutes.
class Builder : public nlohmann::json_sax<Value> {
 public:
  explicit Builder(int max_depth) : max_depth_(static_cast<size_t>(max_depth)) {}
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // no text has any
  bool start_object(std::size_t) override { return Enter(Value::object()); }
  bool key(string_t& key) override {
    Open& object = open_.back();
    if (++object.members > kMaxMembers) {
      error_ = StrCat("JSON object of more than ", kMaxMembers, " members");
      return false;
    }
    member_ = &(*object.value)[std::move(key)];
    return true;
  }
  bool end_object() override { return Exit(); }
  bool start_array(std::size_t) override { return Enter(Value::array()); }
  bool end_array() override { return Exit(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = StrCat("invalid JSON at byte ", position);
    return false;
  }
  const std::string& error() const { return error_; }
  Value Take() { return std::move(root_); }

 private:
  struct Open {
    Value* value;
    size_t members = 0;
  };
  // A container grows only while nothing within it is open, so that pointers into it stay valid.
  Value* Place(Value value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Value& parent = *open_.back().value;
    if (parent.is_object()) return &(*member_ = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool Add(Value value) {
    Place(std::move(value));
    return true;
  }
  bool Enter(Value container) {
    if (open_.size() >= max_depth_) {
      error_ = StrCat("JSON nested deeper than ", max_depth_, " levels");
      return false;
    }
    open_.push_back({Place(std::move(container))});
    return true;
  }
  bool Exit() {
    open_.pop_back();
    return true;
  }
  const size_t max_depth_;
  Value root_;
  std::vector<Open> open_;   // objects and arrays
  Value* member_ = nullptr;  // that the last key names
  std::string error_;
};

// Forwards the events of a parse to a visitor.
class VisitorAdapter : public nlohmann::json_sax<Value> {
 public:
  VisitorAdapter(JsonVisitor& visitor, int max_depth) : visitor_(visitor), left_(max_depth) {}
  bool null() override { return Go(visitor_.Null()); }
  bool boolean(bool) override { return Go(visitor_.Other()); }
  bool number_integer(number_integer_t value) override { return Go(visitor_.Int(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    const bool fits = value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    return Go(fits ? visitor_.Int(static_cast<int64_t>(value)) : visitor_.Other());
  }
  bool number_float(number_float_t, const string_t&) override { return Go(visitor_.Other()); }
  bool string(string_t& value) override { return Go(visitor_.String(value)); }
  bool binary(binary_t&) override { return Go(visitor_.Other()); }
  bool start_object(std::size_t) override { return Enter(true); }
  bool key(string_t& key) override { return Go(visitor_.Key(key)); }
  bool end_object() override { return Exit(); }
  bool start_array(std::size_t) override { return Enter(false); }
  bool end_array() override { return Exit(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Go(absl::InvalidArgumentError(StrCat("invalid JSON at byte ", position)));
  }
  const absl::Status& status() const { return status_; }

 private:
  bool Go(absl::Status status) {
    status_ = std::move(status);
    return status_.ok();
  }
  bool Enter(bool object) {
    if (left_-- > 0) return Go(visitor_.Open(object));
    return Go(absl::InvalidArgumentError("JSON nested too deeply"));
  }
  bool Exit() {
    ++left_;
    return Go(visitor_.Close());
  }
  JsonVisitor& visitor_;
  int left_;  // remaining levels
  absl::Status status_;
};

// The text of a value. Terminals obey DEL and the C1 control characters as well, which JSON may
// have as they are.
std::string TextOf(const Value& value, int indent) {
  const std::string text = value.dump(indent, ' ', false, Value::error_handler_t::replace);
  std::string out;
  size_t done = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
    // The text is valid UTF-8: 0xc2 leads U+0080 to U+00BF.
    const bool c1 = byte(i) == 0xc2 && i + 1 < text.size() && byte(i + 1) < 0xa0;
    if (byte(i) != 0x7f && !c1) continue;
    StrAppend(&out, std::string_view(text).substr(done, i - done), "\\u00",
              absl::Hex(byte(c1 ? i + 1 : i), absl::kZeroPad2));
    if (c1) ++i;
    done = i + 1;
  }
  return out.append(text, done);
}

}  // namespace

absl::Status VisitJson(std::string_view text, JsonVisitor& visitor, int max_depth) {
  VisitorAdapter adapter(visitor, max_depth);
  try {
    if (Value::sax_parse(text.begin(), text.end(), &adapter)) return absl::OkStatus();
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(StrCat("invalid JSON: ", Printable(e.what())));
  }
  return adapter.status();
}

absl::StatusOr<Json> Json::Parse(std::string_view text, int max_depth) {
  Builder builder(max_depth);
  try {
    if (!Value::sax_parse(text.begin(), text.end(), &builder)) {
      return absl::InvalidArgumentError(builder.error());
    }
    auto document = std::make_shared<const Value>(builder.Take());
    Json json;
    json.node_ = document.get();
    json.document_ = std::move(document);
    return json;
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(StrCat("invalid JSON: ", Printable(e.what())));
  }
}

bool Json::is_object() const { return node_ != nullptr && Node(node_)->is_object(); }
bool Json::is_array() const { return node_ != nullptr && Node(node_)->is_array(); }
bool Json::is_null() const { return node_ != nullptr && Node(node_)->is_null(); }

std::optional<std::string> Json::string() const {
  if (node_ == nullptr || !Node(node_)->is_string()) return std::nullopt;
  return *Node(node_)->get_ptr<const std::string*>();
}

std::optional<int64_t> Json::integer() const {
  if (node_ == nullptr || !Node(node_)->is_number_integer()) return std::nullopt;
  if (const auto* number = Node(node_)->get_ptr<const Value::number_unsigned_t*>()) {
    if (*number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(*number);
  }
  return *Node(node_)->get_ptr<const Value::number_integer_t*>();
}

std::optional<bool> Json::boolean() const {
  if (node_ == nullptr || !Node(node_)->is_boolean()) return std::nullopt;
  return *Node(node_)->get_ptr<const bool*>();
}

size_t Json::size() const { return is_object() || is_array() ? Node(node_)->size() : 0; }

Json Json::operator[](std::string_view key) const {
  Json member;
  if (!is_object()) return member;
  const auto it = Node(node_)->find(std::string(key));
  if (it == Node(node_)->end()) return member;
  member.document_ = document_;
  member.node_ = &*it;
  return member;
}

Json Json::at(size_t index) const {
  Json element;
  if (!is_array() || index >= Node(node_)->size()) return element;
  element.document_ = document_;
  element.node_ = &(*Node(node_))[index];
  return element;
}

std::vector<std::pair<std::string, Json>> Json::members() const {
  std::vector<std::pair<std::string, Json>> members;
  if (!is_object()) return members;
  for (const auto& [key, value] : Node(node_)->items()) {
    Json member;
    member.document_ = document_;
    member.node_ = &value;
    members.emplace_back(key, std::move(member));
  }
  return members;
}

std::vector<Json> Json::elements() const {
  std::vector<Json> elements;
  const size_t n = is_array() ? size() : 0;
  for (size_t i = 0; i < n; ++i) elements.push_back(at(i));
  return elements;
}

std::string Json::StringOr(std::string_view key, std::string_view fallback) const {
  return (*this)[key].string().value_or(std::string(fallback));
}

Secret Json::SecretOf(std::string_view key) const {
  const Json member = (*this)[key];
  if (member.node_ == nullptr || !Node(member.node_)->is_string()) return Secret();
  return *Node(member.node_)->get_ptr<const std::string*>();
}

int64_t Json::IntOr(std::string_view key, int64_t fallback) const {
  return (*this)[key].integer().value_or(fallback);
}

std::string Json::Dump(int indent) const {
  if (node_ == nullptr) return "null";
  return TextOf(*Node(node_), indent);
}

void JsonWriter::Separate() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (has_member_.empty()) return;
  if (has_member_.back()) out_ += ',';
  has_member_.back() = true;
  if (pretty_) {
    out_ += '\n';
    out_.append(2 * has_member_.size(), ' ');
  }
}

JsonWriter& JsonWriter::BeginObject() {
  Separate();
  out_ += '{';
  has_member_.push_back(false);
  return *this;
}

JsonWriter& JsonWriter::BeginArray() {
  Separate();
  out_ += '[';
  has_member_.push_back(false);
  return *this;
}

void JsonWriter::End(char bracket) {
  const bool had = has_member_.back();
  has_member_.pop_back();
  if (had && pretty_) {
    out_ += '\n';
    out_.append(2 * has_member_.size(), ' ');
  }
  out_ += bracket;
}

JsonWriter& JsonWriter::EndObject() {
  End('}');
  return *this;
}

JsonWriter& JsonWriter::EndArray() {
  End(']');
  return *this;
}

JsonWriter& JsonWriter::Key(std::string_view key) {
  Separate();
  Quote(key);
  out_ += pretty_ ? ": " : ":";
  after_key_ = true;
  return *this;
}

void JsonWriter::Quote(std::string_view text) { out_ += TextOf(Value(std::string(text)), -1); }

JsonWriter& JsonWriter::String(std::string_view value) {
  Separate();
  Quote(value);
  return *this;
}

JsonWriter& JsonWriter::Int(int64_t value) {
  Separate();
  StrAppend(&out_, value);
  return *this;
}

JsonWriter& JsonWriter::Uint(uint64_t value) {
  Separate();
  StrAppend(&out_, value);
  return *this;
}

JsonWriter& JsonWriter::Double(double value) {
  Separate();
  out_ += Value(value).dump();
  return *this;
}

JsonWriter& JsonWriter::Bool(bool value) {
  Separate();
  out_ += value ? "true" : "false";
  return *this;
}

JsonWriter& JsonWriter::Null() {
  Separate();
  out_ += "null";
  return *this;
}

JsonWriter& JsonWriter::Raw(std::string_view json) {
  Separate();
  out_ += json;
  return *this;
}

JsonWriter& JsonWriter::Document(const Json& value) {
  if (value.is_object()) {
    BeginObject();
    for (const auto& [key, member] : value.members()) Key(key).Document(member);
    return EndObject();
  }
  if (value.is_array()) {
    BeginArray();
    for (const Json& element : value.elements()) Document(element);
    return EndArray();
  }
  if (const auto text = value.string(); text.has_value()) return String(*text);
  return value.exists() ? Raw(value.Dump()) : Null();
}

}  // namespace imagefs
