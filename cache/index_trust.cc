#include "cache/index_trust.h"

namespace imagefs {

std::string_view IndexSourceName(IndexSource source) {
  switch (source) {
    case IndexSource::kInImage:
      return "in-image";
    case IndexSource::kBeside:
      return "beside";
    case IndexSource::kConfigured:
      return "configured";
    case IndexSource::kSigned:
      return "signed";
  }
  return "in-image";
}

}  // namespace imagefs
